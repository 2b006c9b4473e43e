"""Rules of batch selection against each other: does choosing batches by their spectrum save time?

  python -m spectral_jax.compare [--config=configs/NAME.py] [--rules=random,greedy_balanced,...] [--seeds=0,1,2,3,4]
      [--target=0.98] [--knn_target=0.97] [--workdir=DIR] [--page=docs/results.md] [--config.KEY=VALUE ...]

Trains the config once for every rule and seed, from the same initialisation with the same augmentations, and scores it
every `eval_every_epochs`. Leaves results.json, table.md and curves.png; runs that are there already are not repeated,
so a comparison that was stopped goes on, and rules and seeds can be added.
"""

import datetime
import os
import pathlib
import platform
import sys

from absl import flags

from spectral_jax import command

RULES = flags.DEFINE_list(
    "rules", "random,greedy_balanced,greedy_independent,pool_p1,pool_p3,log_det,hard", "Rules to compare.")
SEEDS = flags.DEFINE_list("seeds", "0,1,2,3,4", "Seeds of the initialisation, the augmentations and the batches.")
TARGET = flags.DEFINE_float("target", 0.98, "Linear accuracy to reach.", lower_bound=0.0, upper_bound=1.0)
KNN_TARGET = flags.DEFINE_float(
    "knn_target", None, "kNN accuracy to reach; by default --target.", lower_bound=0.0, upper_bound=1.0)
PAGE = flags.DEFINE_string(
    "page", None, "A page of results, e.g. docs/results.md, that gets or renews this comparison's section.")


def main(config, name):
  # After the flags: a wrong one is answered at once.
  from spectral_jax.comparison import curves, page, rules, runs, statistics
  from spectral_jax.data import open_dataset
  from spectral_jax.training.checks import check_batch, check_config
  from spectral_jax.training.mesh import make_mesh
  from spectral_jax.training.planner import check_selection
  from spectral_jax.training.workdir import claim, write_json

  names, seeds = RULES.value, seeds_of(SEEDS.value)
  check_config(config)
  mesh, dataset = make_mesh(config.model_parallel), open_dataset(config.data)
  check_batch(config, dataset.train.size, mesh)
  for rule in names:
    check_selection(rules.with_rule(config, rule, seeds[0]), dataset.train.size)
  knn_target = TARGET.value if KNN_TARGET.value is None else KNN_TARGET.value
  targets = {"linear_accuracy": TARGET.value, "knn_accuracy": knn_target}
  with claim(command.WORKDIR.value or f"runs/compare-{name}", config) as folder:
    results = runs.run_all(config, dataset, mesh, folder, names, seeds)
    picture = folder / "curves.png"
    curves.save_comparison(picture, results, targets)
    content = {"about": about(config, dataset, mesh, seeds, picture.name), "targets": targets, "runs": results,
               "summary": statistics.summarise(results, targets)}
    write_json(folder / "results.json", content)
    table = page.section(content)
    (folder / "table.md").write_text(table + "\n")
    print(f"\n{table}\n\nEverything is in {folder}")
    if PAGE.value:
      publish(pathlib.Path(PAGE.value), name, dataset, content, picture)


def publish(path, name, dataset, content, picture):
  """Writes the comparison's section of a page; beside the page its picture and the JSON that both were made from."""
  from spectral_jax.comparison import page
  from spectral_jax.training.workdir import write_json
  copy = path.with_name(f"{path.stem}_{name}.png")
  copy.parent.mkdir(parents=True, exist_ok=True)
  copy.write_bytes(picture.read_bytes())
  content = {**content, "about": {**content["about"], "picture": copy.name}}
  write_json(copy.with_suffix(".json"), content)
  page.write_section(path, name, f"{dataset.name}: {len(SEEDS.value)} seeds", page.section(content))
  print(f"{path} has it as well.")


def seeds_of(words):
  """The seeds as integers, or a ValueError that names the one that is not."""
  try:
    seeds = [int(word) for word in words]
  except ValueError:
    raise ValueError(f"--seeds must be integers with commas between them, got {','.join(words)!r}") from None
  if not seeds or len(set(seeds)) < len(seeds) or min(seeds) < 0:
    raise ValueError(f"--seeds must name at least one seed, none twice and none negative; got {','.join(words)!r}")
  return seeds


def about(config, dataset, mesh, seeds, picture):
  """Where the figures come from: command, hardware, date and setting."""
  devices = mesh.devices.ravel()
  cores = f", {len(os.sched_getaffinity(0))} cores" if devices[0].platform == "cpu" else ""
  words = [word for word in sys.argv[1:] if not word.startswith(("--workdir", "--page"))]
  steps = config.steps or config.epochs * (dataset.train.size // config.batch_size)
  return {
      "command": " ".join(["python -m spectral_jax.compare", *words]), "date": str(datetime.date.today()),
      "hardware": f"{len(devices)} x {devices[0].device_kind} ({platform.machine()}{cores})",
      "setting": f"{dataset.name}, {dataset.train.size:,} training images, {config.model.encoder}, {config.loss.name}, "
                 f"batches of {config.batch_size}, {steps:,} steps, epochs that a bank serves: "
                 f"{config.bank.refresh_epochs}, {config.selection.candidates or 'all'} candidates.",
      "seeds": ", ".join(map(str, seeds)), "picture": picture}


if __name__ == "__main__":
  command.run(main)
