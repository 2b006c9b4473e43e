"""The runs of a study: one for every case, all else equal.

Cases of one shape share what is compiled, and none pays for compiling; those of one seed share the initialization and,
image by image and step by step, the augmentations. The clock counts steps, bank refreshes and selection; evaluation is
left out. A case that is there already is not run again, one that was stopped goes on, and one that fails is reported
and costs the others nothing.
"""

from __future__ import annotations

import shutil
import time
from typing import TYPE_CHECKING

import jax
import numpy as np

from spectral_jax._errors import ConfigError, RunError
from spectral_jax.data import open_dataset
from spectral_jax.evaluation import SCORES, score
from spectral_jax.mesh import make_mesh
from spectral_jax.training.batches.planner import chosen_table, first_tables
from spectral_jax.training.checks import check_config
from spectral_jax.training.loop import frozen, train
from spectral_jax.training.program import static
from spectral_jax.training.run import prepare
from spectral_jax.training.step import named
from spectral_jax.workdir import checkpoints
from spectral_jax.workdir.folder import claim, read_json, write_json
from spectral_jax.workdir.logs import read_metrics

if TYPE_CHECKING:
  import pathlib
  from collections.abc import Mapping
  from typing import Any

  from jax.sharding import Mesh

  from spectral_jax._types import Config
  from spectral_jax.training.loop import Evaluate
  from spectral_jax.training.run import Run
  from spectral_jax.training.state import State

RESULT = "result.json"


def run_cases(cases: Mapping[str, Config], folder: pathlib.Path, *, evaluate: Evaluate | None = None,
              mesh: Mesh | None = None) -> tuple[dict[str, dict[str, Any]], dict[str, str]]:
  """Makes the runs that are not in `folder` yet and returns the results of all.

  Args:
    cases: `{name: config}`; the name is a folder's.
    folder: a claimed workdir; each case has a folder in it.
    evaluate: `(run, state) -> scores`; by default `scores_of`.
    mesh: by default all devices.

  Returns:
    `(results, failures)`: `{name: result}`, a result having "curve" (a list of points with "step", "examples",
    "seconds", "processor_seconds" and the scores), "refresh_seconds", "selection_seconds" and the batches' mean ranks,
    and of its data "dataset", "train_images" and "class_names"; and `{name: message}`.

  Raises:
    ConfigError: a case has a config that no run could use; nothing has been run then.
  """
  for config in cases.values():
    check_config(config)
  missing = _in_order({name: config for name, config in cases.items() if not (folder / name / RESULT).exists()})
  opened, warmed, failures = {}, set(), {}
  for i, name in enumerate(missing):
    started = time.perf_counter()
    try:
      run = _open(cases[name], opened, mesh)
      if id(run.program) not in warmed or run.bank:
        _warm_up(run)
        warmed.add(id(run.program))
      with claim(folder / name, cases[name]) as target:
        train(run, target, evaluate=evaluate or scores_of)
        data = run.dataset
        result = {**_read(target, run.config.batch_size), "dataset": data.name, "train_images": data.train.size,
                  "class_names": list(data.class_names)}
        write_json(target / RESULT, result)
        shutil.rmtree(target / checkpoints.DIRECTORY)
    except (ConfigError, RunError) as error:
      failures[name] = str(error)
      print(f"[{i + 1}/{len(missing)}] {name} failed: {error}", flush=True)
      continue
    last = result["curve"][-1]
    final = ", ".join(f"{one.short} {last[one.key]:.4f}" for one in SCORES if one.key in last)
    print(f"[{i + 1}/{len(missing)}] {name}: {final}; {last['seconds']:.1f} s of training, "
          f"{time.perf_counter() - started:.0f} s in all", flush=True)
  results = {name: read_json(folder / name / RESULT) for name in cases if (folder / name / RESULT).exists()}
  return results, failures


def _in_order(cases):
  """The names, those of one data set and of one program next to each other: few are kept at a time."""
  order = {}
  for name, config in cases.items():
    order.setdefault(_data(config), {}).setdefault(static(config), []).append(name)
  return [name for programs in order.values() for names in programs.values() for name in names]


def _data(config):
  return config.data.to_json(), config.model_parallel


def _open(config, opened, mesh):
  """The case's run; the data set last opened serves for all cases that describe the same."""
  key = _data(config)
  if key not in opened:
    opened.clear()
    opened[key] = open_dataset(config.data), mesh or make_mesh(config.model_parallel)
  return prepare(config, *opened[key])


def scores_of(run: Run, state: State) -> dict[str, float]:
  """Scores the frozen features of the whole test set, of every learner."""
  return scores_of_frozen(run, *frozen(run, state, run.config.eval.train_limit))


def scores_of_frozen(run: Run, found: Mapping[str, Any], labels: Mapping[str, np.ndarray]) -> dict[str, float]:
  """The scores of every learner; those of the main one stand for the run as well."""
  scores = {name: score(parts["train"][0], labels["train"], parts["test"][0], labels["test"],
                        num_classes=len(run.dataset.class_names), config=run.config.eval)
            for name, parts in found.items()}
  return named(scores) | scores[run.program.main]


def _warm_up(run):
  """Compiles what the run will call, and throws the results away."""
  state, table = run.init(), first_tables(run.plan, run.bank).present
  if run.bank:
    chosen_table(run.plan, 0, run.bank.rows(run.bank.refresh(state)))
  steps = (False, True) if run.config.diagnostics_every else (False,)
  for observed, batch in zip(steps, run.feed(table[:len(steps)], 0)):
    state, metrics = run.step(state, batch, observed)
  jax.block_until_ready((state, metrics))


def _read(folder, batch_size):
  """A run's curve and what selection cost it, from its metrics."""
  records = read_metrics(folder)
  points = [r for r in records if "trained_seconds" in r]
  scores = [{k: v for k, v in r.items() if k != "step" and not k.endswith("seconds")} for r in points]
  # A run that was begun before processor seconds were counted has some of them only.
  clocks = [name for name in ("seconds", "processor_seconds") if all(f"trained_{name}" in r for r in points)]
  curve = [{"step": r["step"], "examples": r["step"] * batch_size, **{name: r[f"trained_{name}"] for name in clocks},
            **of_point} for r, of_point in zip(points, scores)]
  column = lambda name: [r[name] for r in records if name in r]
  ranks = {f"mean_{name}": float(np.mean(column(name))) for name in ("selected_rank", "random_rank") if column(name)}
  return {"curve": curve, "refresh_seconds": sum(column("refresh_seconds")),
          "selection_seconds": sum(column("selection_seconds")), **ranks}
