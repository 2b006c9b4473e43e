"""Rules of batch selection against each other: does choosing batches by their spectrum save time?

  python -m spectral_jax.compare [--config=configs/NAME.py] [--rules=random,greedy_balanced,...] [--seeds=0,1,2,3,4]
      [--target=0.98] [--knn_target=0.97] [--workdir=DIR] [--page=docs/results.md] [--config.KEY=VALUE ...]

Trains the config once for every rule and seed, from the same initialization with the same augmentations, and scores it
every `eval_every_epochs`. Leaves results.json, table.md and curves.png; runs that are there already are not repeated,
so a comparison that was stopped goes on, and rules and seeds can be added.
"""

import datetime
import os
import pathlib
import platform
import sys

from absl import flags

from spectral_jax import command, preemption
from spectral_jax._errors import ConfigError, RunError

RULES = flags.DEFINE_list(
    "rules", "random,greedy_balanced,greedy_independent,pool_p1,pool_p3,log_det,hard", "Rules to compare.")
SEEDS = flags.DEFINE_list("seeds", "0,1,2,3,4", "Seeds of the initialization, the augmentations and the batches.")
TARGET = flags.DEFINE_float("target", 0.98, "Linear accuracy to reach.", lower_bound=0.0, upper_bound=1.0)
KNN_TARGET = flags.DEFINE_float(
    "knn_target", None, "kNN accuracy to reach; by default --target.", lower_bound=0.0, upper_bound=1.0)
PAGE = flags.DEFINE_string(
    "page", None, "A page of results, e.g. docs/results.md, that gets or renews this comparison's section.")


def main(config, name):
  # After the flags: a wrong one is reported at once.
  from spectral_jax.studies import curves, page, selection_rules
  from spectral_jax.studies.cases import run_cases
  from spectral_jax.studies.intervals import summarize
  from spectral_jax.training.run import open_run
  from spectral_jax.workdir.folder import claim, write_json

  names, seeds = RULES.value, seeds_of(SEEDS.value)
  cases = {f"{rule}-{seed}": selection_rules.with_rule(config, rule, seed) for seed in seeds for rule in names}
  run = open_run(config)
  knn_target = TARGET.value if KNN_TARGET.value is None else KNN_TARGET.value
  targets = {"linear_accuracy": TARGET.value, "knn_accuracy": knn_target}
  with claim(command.WORKDIR.value or f"runs/compare-{name}", config) as folder, preemption.watched():
    found, failures = run_cases(cases, folder)
    results = [{"rule": rule, "seed": seed, **found[f"{rule}-{seed}"]}
               for rule in names for seed in seeds if f"{rule}-{seed}" in found]
    if not results:
      raise RunError("every case failed: " + "; ".join(f"{case}: {why}" for case, why in failures.items()))
    picture = folder / "curves.png"
    curves.save_comparison(picture, results, targets)
    content = {"about": about(run, seeds, picture.name), "targets": targets, "runs": results, "failures": failures,
               "summary": summarize(results, targets)}
    write_json(folder / "results.json", content)
    table = page.section(content)
    (folder / "table.md").write_text(table + "\n")
    print(f"\n{table}\n\nEverything is in {folder}")
    if PAGE.value:
      publish(pathlib.Path(PAGE.value), name, run.dataset.name, content, picture)


def publish(path, name, dataset, content, picture):
  """Writes the comparison's section of a page; beside the page its picture and the JSON that both were made from."""
  from spectral_jax.studies import page
  from spectral_jax.workdir.folder import write_json
  copy = path.with_name(f"{path.stem}_{name}.png")
  copy.parent.mkdir(parents=True, exist_ok=True)
  copy.write_bytes(picture.read_bytes())
  content = {**content, "about": {**content["about"], "picture": copy.name}}
  write_json(copy.with_suffix(".json"), content)
  page.write_section(path, name, f"{dataset}: {len(SEEDS.value)} seeds", page.section(content))
  print(f"{path} has it as well.")


def seeds_of(words):
  """The seeds as integers, or a ValueError that names the one that is not."""
  try:
    seeds = [int(word) for word in words]
  except ValueError:
    raise ConfigError(f"--seeds must be integers with commas between them, got {','.join(words)!r}") from None
  if not seeds or len(set(seeds)) < len(seeds) or min(seeds) < 0:
    raise ConfigError(f"--seeds must name at least one seed, none twice and none negative; got {','.join(words)!r}")
  return seeds


def about(run, seeds, picture):
  """Where the figures come from: command, hardware, date and setting."""
  config, dataset, devices = run.config, run.dataset, run.mesh.devices.ravel()
  cores = f", {len(os.sched_getaffinity(0))} cores" if devices[0].platform == "cpu" else ""
  words = [word for word in sys.argv[1:] if not word.startswith(("--workdir", "--page"))]
  return {
      "command": " ".join(["python -m spectral_jax.compare", *words]), "date": str(datetime.date.today()),
      "hardware": f"{len(devices)} x {devices[0].device_kind} ({platform.machine()}{cores})",
      "setting": f"{dataset.name}, {dataset.train.size:,} training images, {config.model.encoder}, {config.loss.name}, "
                 f"batches of {config.batch_size}, {run.total_steps:,} steps, epochs that a bank serves: "
                 f"{config.bank.refresh_epochs}, {config.selection.candidates or 'all'} candidates.",
      "seeds": ", ".join(map(str, seeds)), "picture": picture}


if __name__ == "__main__":
  command.run(main)
