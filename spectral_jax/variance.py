"""Gradient variance with and without whitening, at fixed parameters.

  python -m spectral_jax.variance [--config=configs/NAME.py] [--workdir=DIR] [--batches=50] [--train_steps=100]
                                  [--config.KEY=VALUE ...]

Measures at the initial parameters and after `--train_steps` steps of the config; writes variance.txt, variance.json and
variance.png. With no flag: the digits, about a minute on a laptop's CPU.
"""

import json
import pathlib

from spectral_jax import command
from spectral_jax.command import flags

BATCHES = flags.DEFINE_integer("batches", 50, "Batches K that the variance is taken over.", lower_bound=2)
TRAIN_STEPS = flags.DEFINE_integer(
    "train_steps", 100, "Steps trained before the second measurement; 0: none.", lower_bound=0)

COLUMNS = (("variance", "raw"), ("normalized", "normalized"), ("variance_ratio", "raw ratio"),
           ("normalized_ratio", "norm. ratio"), ("predicted_ratio", "predicted"))


def main(config, name):
  # After the flags: a wrong one is reported at once.
  from spectral_jax.studies.gradient_variance import gradient_variance
  from spectral_jax.studies.moments import trained
  from spectral_jax.training.run import open_run

  run = open_run(config)
  results = {}
  for steps in sorted({0, TRAIN_STEPS.value}):
    results[f"after {steps} steps"] = gradient_variance(run, trained(run, steps), batches=BATCHES.value)
  folder = pathlib.Path(command.WORKDIR.value or "runs/variance")
  folder.mkdir(parents=True, exist_ok=True)
  text = table(results, name, BATCHES.value)
  (folder / "variance.txt").write_text(text + "\n")
  (folder / "variance.json").write_text(json.dumps({"batches": BATCHES.value, "results": results}, indent=2) + "\n")
  save_picture(folder / "variance.png", results)
  print(f"{text}\n\nWritten: {folder}/variance.txt, variance.json, variance.png")


def table(results, name, batches):
  """The study as text; ratios are without over with whitening: above 1 where it lowers the variance."""
  lines = [f"Variance of the parameter gradient over {batches} batches, config {name}.",
           "Ratios: without over with whitening; above 1 where whitening lowers it."]
  for when, rows in results.items():
    lines += ["", f"{when:>15} " + " ".join(f"{title:>12}" for _, title in COLUMNS)]
    lines += [f"{method:>15} " + " ".join(f"{row[key]:12.4g}" for key, _ in COLUMNS) for method, row in rows.items()]
    lines += [f"{'':15} {method}: {verdict(row)}" for method, row in rows.items() if method != "none"]
  return "\n".join(lines)


def verdict(row):
  """What a method's row says in words: the prediction is of the embedding gradients' bound, not of the parameters'."""
  measured = "lowers" if row["normalized_ratio"] > 1 else "raises"
  predicted = "a fall" if row["predicted_ratio"] > 1 else "a rise"
  agreement = "as" if (row["normalized_ratio"] > 1) == (row["predicted_ratio"] > 1) else "where"
  return (f"whitening {measured} the parameter gradient's variance, {agreement} the band, which bounds the gradient "
          f"with respect to embeddings, predicts {predicted}")


def save_picture(path, results):
  """Measured ratios beside the predicted one, for each method and stage."""
  import numpy as np
  from matplotlib.figure import Figure

  figure = Figure(figsize=(5.2 * len(results), 3.6), layout="constrained")
  axes = figure.subplots(1, len(results), squeeze=False)
  bars = (("variance_ratio", "raw", "#2b6cb0"), ("normalized_ratio", "scale-normalized", "#63b3ed"),
          ("predicted_ratio", "predicted by the band", "#dd6b20"))
  for axis, (when, rows) in zip(axes.flat, results.items()):
    methods = [method for method in rows if method != "none"]
    for k, (key, label, color) in enumerate(bars):
      axis.bar(np.arange(len(methods)) + 0.26 * (k - 1), [rows[m][key] - 1 for m in methods], 0.24,
               bottom=1, color=color, label=label)
    axis.axhline(1, color="#222222", linewidth=0.8)
    axis.set_yscale("log")
    axis.set_xticks(range(len(methods)), methods)
    axis.set_title(f"Variance without over with whitening, {when}", fontsize=10)
  axes[0, 0].legend(fontsize=8, frameon=False)
  figure.savefig(path, dpi=110)


if __name__ == "__main__":
  command.run(main)
