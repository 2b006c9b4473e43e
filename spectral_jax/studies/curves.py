"""The pictures of studies: means over seeds as lines, their confidence intervals as bands."""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING

import matplotlib
import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from spectral_jax.evaluation import SCORES
from spectral_jax.reports.panels import named
from spectral_jax.reports.pictures import INK, save, style
from spectral_jax.studies.intervals import interval

if TYPE_CHECKING:
  import pathlib
  from collections.abc import Mapping, Sequence
  from typing import Any, TypeAlias

  Curve: TypeAlias = Sequence[Mapping[str, float]]  # a run's points


def save_comparison(path: pathlib.Path, results: Sequence[Mapping[str, Any]],
                    targets: Mapping[str, float], clock: str = "seconds") -> list[str]:
  """Draws the mean curve of each rule against its mean training time; the targets are dotted; returns `[name]`.

  `clock` is what time is told by: "seconds" or "processor_seconds".
  """
  rules = list(dict.fromkeys(result["rule"] for result in results))
  curves = {rule: [result["curve"] for result in results if result["rule"] == rule] for rule in rules}
  with style():
    figure = Figure(figsize=(13, 4.0), layout="constrained")
    axes = figure.subplots(1, len(SCORES))
    for axis, name in zip(axes, (one.key for one in SCORES)):
      _over(axis, curves, name, clock)
      if name in targets:
        axis.axhline(targets[name], color=INK, linestyle=":", linewidth=1)
      axis.set(title=_title(name), xlabel=f"{clock.replace('_', ' ')} of training, selection included")
      axis.xaxis.set_major_locator(MaxNLocator(5))
    _legend(figure, axes[0])
    save(figure, path)
  return [path.name]


def save_training(path: pathlib.Path, curves: Mapping[str, Sequence[Curve]], metrics: Sequence[str],
                  columns: int = 4) -> str:
  """Draws each metric over the steps, a line a setting; `curves` maps a setting to its seeds' curves."""
  metrics = [metric for metric in metrics if all(metric in p for of_seeds in curves.values() for p in of_seeds[0])]
  columns = min(columns, max(len(metrics), 1))
  rows = max(1, -(-len(metrics) // columns))
  with style():
    figure = Figure(figsize=(4.2 * columns, 3.0 * rows + 0.2 * len(curves) / columns), layout="constrained")
    axes = figure.subplots(rows, columns, squeeze=False)
    for axis, metric in zip(axes.flat, metrics):
      _over(axis, curves, metric, "step")
      axis.set(title=_title(metric), xlabel="step")
    _hide(axes.flat[len(metrics):])
    _legend(figure, axes.flat[0])
    save(figure, path)
  return path.name


def save_against(path: pathlib.Path, key: str, lines: Mapping[str, Mapping[str, Sequence[tuple[Any, Sequence[float]]]]],
                 columns: int = 3) -> str:
  """Draws final values against the values of one key.

  Args:
    path: of the picture.
    key: named below the panels.
    lines: `{panel: {line: [(value, numbers)]}}`, the numbers being those of the seeds; values that are numbers are
      drawn to scale, others evenly spaced.
  """
  columns = min(columns, len(lines))
  rows = -(-len(lines) // columns)
  with style():
    figure = Figure(figsize=(4.2 * columns, 3.2 * rows + 0.4), layout="constrained")
    axes = figure.subplots(rows, columns, squeeze=False)
    names = list(dict.fromkeys(name for panel in lines.values() for name in panel))
    colors = _colors(names)
    for axis, (title, panel) in zip(axes.flat, lines.items()):
      ticks = list(dict.fromkeys(value for points in panel.values() for value, _ in points))
      numeric = [number for number in map(_number, ticks) if number is not None]
      ordered = len(numeric) == len(ticks)
      places = dict(zip(ticks, numeric if ordered else range(len(ticks))))
      for name, points in panel.items():
        means, halves = np.transpose([interval(numbers) for _, numbers in points])
        _line(axis, [places[value] for value, _ in points], means, halves, colors[name], name)
      if ordered and min(numeric) > 0 and max(numeric) / min(numeric) >= 8:
        axis.set_xscale("log", base=2)
      axis.set_xticks([places[tick] for tick in ticks], [str(tick) for tick in ticks])
      axis.minorticks_off()
      axis.set_title(_title(title), fontsize=9)
      axis.set_xlabel(key)
    _hide(axes.flat[len(lines):])
    if len(names) > 1:
      _legend(figure, max(axes.flat, key=lambda axis: len(axis.lines)))
    save(figure, path)
  return path.name


def _title(metric):
  """A metric of whatever learner or setting in words, the first of them capitalized."""
  owner, slash, bare = metric.rpartition("/")
  bare, line, setting = bare.partition("\n")
  words = named(bare)
  return (f"{owner}: {words}" if slash else words[:1].upper() + words[1:]) + line + setting


def _over(axis, curves, metric, along):
  """A metric's mean and interval over the points of curves, which have their points at the same steps."""
  for name, color in _colors(curves).items():
    of_seeds = curves[name]
    # Runs from before 0.2 have no processor seconds.
    places = [np.mean([point[along] for point in points if along in point] or np.nan) for points in zip(*of_seeds)]
    means, halves = np.transpose([interval(values) for values in zip(*([p[metric] for p in c] for c in of_seeds))])
    _line(axis, places, means, halves, color, name)


def _line(axis, places, means, halves, color, name):
  axis.plot(places, means, color=color, marker=".", label=name)
  axis.fill_between(places, means - halves, means + halves, color=color, alpha=0.12, linewidth=0)


def _colors(names):
  palette = "tab10" if len(names) <= 10 else "tab20"
  return dict(zip(names, itertools.cycle(matplotlib.colormaps[palette].colors)))  # pyright: ignore[reportAttributeAccessIssue]


def _legend(figure, axis):
  handles, names = axis.get_legend_handles_labels()
  if names:
    figure.legend(handles, names, loc="outside lower center", ncols=min(6, len(names)), fontsize=8)


def _hide(axes):
  for axis in axes:
    axis.set_visible(False)


def _number(value):
  try:
    return float(value)
  except (TypeError, ValueError):
    return None
