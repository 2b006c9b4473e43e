"""Accuracy over training time, one line a rule, its band the seeds' confidence interval."""

import itertools

import numpy as np

from spectral_jax.comparison.statistics import interval
from spectral_jax.training.pictures import INK, STYLE, plt

PANELS = (("linear_accuracy", "Linear probe"), ("knn_accuracy", "k nearest neighbours"),
          ("five_shot_accuracy", "Few labels a class"))


def save_comparison(path, results, targets):
  """Draws the mean curve of each rule against its mean training time; the targets are dotted."""
  rules = list(dict.fromkeys(result["rule"] for result in results))
  colours = dict(zip(rules, itertools.cycle(plt.get_cmap("tab10").colors)))
  with plt.rc_context(STYLE):
    figure, axes = plt.subplots(1, 3, figsize=(13, 4.0), layout="constrained")
    for axis, (name, title) in zip(axes, PANELS):
      for rule in rules:
        curves = [result["curve"] for result in results if result["rule"] == rule]
        seconds = np.mean([[point["seconds"] for point in curve] for curve in curves], axis=0)
        means, halves = np.transpose([interval(values) for values in zip(*([p[name] for p in c] for c in curves))])
        axis.plot(seconds, means, color=colours[rule], marker=".", label=rule)
        axis.fill_between(seconds, means - halves, means + halves, color=colours[rule], alpha=0.12, linewidth=0)
      if name in targets:
        axis.axhline(targets[name], color=INK, linestyle=":", linewidth=1)
      axis.set(title=title, xlabel="seconds of training, selection included")
    axes[0].legend(fontsize=8)
    figure.savefig(path)
    plt.close(figure)
