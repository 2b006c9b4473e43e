"""A sweep as a study: its cells, what is told of them, and its pictures."""

from __future__ import annotations

from typing import TYPE_CHECKING

from spectral_jax.studies import curves, grid, page
from spectral_jax.studies.intervals import interval
from spectral_jax.studies.measures import measures_of
from spectral_jax.studies.study import Study
from spectral_jax.training.objective import learner_sections

if TYPE_CHECKING:
  import pathlib
  from collections.abc import Mapping, Sequence
  from typing import Any

  from spectral_jax._types import Config

NOT_MEASURED = ("step", "examples", "seconds", "processor_seconds")


def study_of(config: Config, axes: Mapping[str, Sequence[Any]], cells: Mapping[str, tuple[dict[str, Any], Config]],
             show: Sequence[str]) -> Study:
  """The `Study` of a grid's cells.

  Args:
    config: what all cells start from.
    axes, cells: from `grid.parse` and `grid.cells`.
    show: metrics of tables and pictures, without the names of learners.
  """
  seeds = axes.get(grid.SEED, [config.seed])
  learners = ", ".join(section.name if name == "main" else name for name, section in learner_sections(config).items())
  length = f"{config.steps:,} steps" if config.steps else f"{config.epochs} epochs"
  values = {name: of_cell for name, (of_cell, _) in cells.items()}
  return Study(
      module="spectral_jax.sweep", seeds=seeds, cases={name: copy for name, (_, copy) in cells.items()},
      labels={name: {"cell": name, "values": of_cell} for name, of_cell in values.items()},
      setting=f"{config.model.encoder}, {learners}, batches of {config.batch_size}, {length}, where nothing else is "
              "said.",
      tell=lambda runs: {"show": show, "over": axes, "summary": summary(runs)},
      draw=draw, section=page.sweep_section, evaluate=measures_of)


def by_setting(runs: Sequence[Mapping[str, Any]]) -> dict[str, list[Mapping[str, Any]]]:
  """`{setting: [run]}`: those that differ in their seed alone."""
  found = {}
  for run in runs:
    found.setdefault(grid.setting(run["values"]), []).append(run)
  return found


def summary(runs: Sequence[Mapping[str, Any]]) -> dict[str, dict[str, Any]]:
  """`{setting: {"values", "seeds", "metrics": {metric: (mean, half)}}}` of what was measured last."""
  rows = {}
  for name, of_seeds in by_setting(runs).items():
    last = [run["curve"][-1] for run in of_seeds]
    rows[name] = {
        "values": {key: value for key, value in of_seeds[0]["values"].items() if key != grid.SEED}, "seeds": len(last),
        "metrics": {metric: interval([point[metric] for point in last]) for metric in last[0]
                    if metric not in NOT_MEASURED}}
  return rows


def draw(folder: pathlib.Path, content: Mapping[str, Any]) -> list[str]:
  """Writes curves.png and, for every key with several values, against_KEY.png. Returns their names."""
  runs, settings = content["runs"], by_setting(content["runs"])
  metrics = page.shown(list(runs[0]["curve"][-1]), content["show"])
  lines = {name: [run["curve"] for run in of_seeds] for name, of_seeds in settings.items()}
  names = [curves.save_training(folder / "curves.png", lines, metrics)]
  for key, values in content["over"].items():
    if key != grid.SEED and len(values) > 1:
      lines = against(settings, key, metrics)
      names.append(curves.save_against(folder / f"against_{key}.png", key, lines))
  return names


def against(settings: Mapping[str, Sequence[Mapping[str, Any]]], key: str,
            metrics: Sequence[str]) -> dict[str, dict[str, list[Any]]]:
  """`{panel: {line: [(value of key, the seeds' numbers)]}}` of final metrics.

  A panel is a metric; where several learners or pairs have it a panel has the other keys' values too, and the learners
  or pairs are its lines.
  """
  panels = {}
  for metric in metrics:
    owner, slash, bare = metric.rpartition("/")
    for of_seeds in settings.values():
      last = [run["curve"][-1] for run in of_seeds]
      if metric not in last[0]:
        continue
      values = of_seeds[0]["values"]
      others = ", ".join(f"{k}={v}" for k, v in values.items() if k not in (key, grid.SEED))
      panel, line = (f"{bare}\n{others}", owner) if slash else (metric, others)
      panels.setdefault(panel, {}).setdefault(line, []).append((values[key], [point[metric] for point in last]))
  return panels
