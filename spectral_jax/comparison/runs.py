"""The runs of a comparison: one for every rule and seed, all else equal.

Runs of one seed share the initialisation and, image by image and step by step, the augmentations; the jitted step is
shared by all, so that no run pays for compiling. The clock counts steps, bank refreshes and selection; evaluation is
left out.
"""

import json
import shutil
import time

import jax
import numpy as np

from spectral_jax.evaluation import score, split_features, spread
from spectral_jax.training import bank, checkpoints, loop, planner
from spectral_jax.training.feed import feed
from spectral_jax.training.logs import read_metrics
from spectral_jax.training.setup import prepare
from spectral_jax.training.state import variables
from spectral_jax.training.workdir import write_json
from spectral_jax.comparison.rules import with_rule

RESULT = "result.json"
SCORES = ("linear_accuracy", "knn_accuracy", "five_shot_accuracy")


def run_all(config, dataset, mesh, folder, rules, seeds):
  """Makes the runs that are not in `folder` yet and returns the results of all, a list of dictionaries."""
  missing = [(rule, seed) for seed in seeds for rule in rules if not (folder / f"{rule}-{seed}" / RESULT).exists()]
  shared, seeded, warmed = None, None, set()
  for i, (rule, seed) in enumerate(missing):
    started = time.perf_counter()
    ruled = with_rule(config, rule, seed)
    if seeded is None or seeded.config.seed != seed:
      seeded = _share(prepare(ruled, dataset, mesh), shared)
      shared = shared or seeded
    run = seeded._replace(config=ruled)
    if rule not in warmed:
      _warm_up(run)
      warmed.add(rule)
    target = folder / f"{rule}-{seed}"
    target.mkdir(exist_ok=True)
    loop.train(run, target, evaluate=evaluate)
    result = {"rule": rule, "seed": seed, **_read(target, config.batch_size)}
    write_json(target / RESULT, result)
    shutil.rmtree(target / checkpoints.DIRECTORY)
    final = ", ".join(f"{name} {result['curve'][-1][name]:.4f}" for name in SCORES)
    print(f"[{i + 1}/{len(missing)}] {rule}, seed {seed}: {final}; {result['curve'][-1]['seconds']:.1f} s of training, "
          f"{time.perf_counter() - started:.0f} s in all", flush=True)
  return [json.loads((folder / f"{rule}-{seed}" / RESULT).read_text()) for rule in rules for seed in seeds]


def evaluate(run, state, log, step):
  """Scores the frozen features of the whole test set; the loop's clock stands still meanwhile."""
  started = time.perf_counter()
  data, limits = run.dataset, run.config.eval
  options = {"batch_size": limits.batch_size, "mesh": run.mesh}
  sets = []
  for split, limit in ((data.train, limits.train_limit), (data.test, limits.test_limit)):
    chosen = spread(split.size, limit)
    sets += [split_features(run.encode, variables(state), split, chosen, **options)[0], split.labels[chosen]]
  scores = score(*sets, num_classes=len(data.class_names), config=limits)
  log.write(step, {**scores, "trained_seconds": log.host()["seconds"],
                   "evaluation_seconds": time.perf_counter() - started})
  return scores


def _share(run, shared):
  """The run of another seed, with the functions that are compiled already."""
  if shared is None:
    return run
  return run._replace(step=shared.step, observed_step=shared.observed_step, views=shared.views, encode=shared.encode,
                      images=shared.images, labels=shared.labels)


def _warm_up(run):
  """Compiles what the run will call, and throws the results away."""
  state, table = run.init(), planner.first_tables(run).present
  if planner.selects(run.config):
    jax.block_until_ready(planner.chosen_table(run, 0, bank.make_refresh(run)(state)))
  for step, batch in zip((run.step, run.observed_step), feed(table[:2], 0, run)):
    state, metrics = step(state, batch, run.images, run.labels)
  jax.block_until_ready((state, metrics))


def _read(folder, batch_size):
  """A run's curve and what selection cost it, from its metrics."""
  records = read_metrics(folder)
  curve = [{"step": r["step"], "examples": r["step"] * batch_size, "seconds": r["trained_seconds"],
            **{name: r[name] for name in SCORES}} for r in records if "trained_seconds" in r]
  column = lambda name: [r[name] for r in records if name in r]
  ranks = {f"mean_{name}": float(np.mean(column(name))) for name in ("selected_rank", "random_rank") if column(name)}
  return {"curve": curve, "refresh_seconds": sum(column("refresh_seconds")),
          "selection_seconds": sum(column("selection_seconds")), **ranks}
