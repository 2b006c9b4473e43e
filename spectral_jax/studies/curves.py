"""Accuracy over training time, one line a rule, its band the seeds' confidence interval."""

import itertools

import matplotlib
import numpy as np
from matplotlib.figure import Figure

from spectral_jax.evaluation import SCORES
from spectral_jax.reports.pictures import INK, style
from spectral_jax.studies.intervals import interval


def save_comparison(path, results, targets):
  """Draws the mean curve of each rule against its mean training time; the targets are dotted."""
  rules = list(dict.fromkeys(result["rule"] for result in results))
  colors = dict(zip(rules, itertools.cycle(matplotlib.colormaps["tab10"].colors)))  # pyright: ignore[reportAttributeAccessIssue]
  with style():
    figure = Figure(figsize=(13, 4.0), layout="constrained")
    axes = figure.subplots(1, len(SCORES))
    for axis, (name, title, _) in zip(axes, SCORES):
      for rule in rules:
        curves = [result["curve"] for result in results if result["rule"] == rule]
        seconds = np.mean([[point["seconds"] for point in curve] for curve in curves], axis=0)
        means, halves = np.transpose([interval(values) for values in zip(*([p[name] for p in c] for c in curves))])
        axis.plot(seconds, means, color=colors[rule], marker=".", label=rule)
        axis.fill_between(seconds, means - halves, means + halves, color=colors[rule], alpha=0.12, linewidth=0)
      if name in targets:
        axis.axhline(targets[name], color=INK, linestyle=":", linewidth=1)
      axis.set(title=title.capitalize(), xlabel="seconds of training, selection included")
    axes[0].legend(fontsize=8)
    figure.savefig(path)
