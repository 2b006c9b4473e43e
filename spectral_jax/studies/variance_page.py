"""What the study of gradient variance leaves: a table, a picture and report.html, all from variance.json."""

from __future__ import annotations

import pathlib
from typing import TYPE_CHECKING

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import LogFormatter

from spectral_jax.reports import charts, html, pictures
from spectral_jax.workdir.folder import read_json, write_json, write_text

if TYPE_CHECKING:
  from typing import Any

RESULTS = "variance.json"
COLUMNS = (("variance", "raw"), ("normalized", "normalized"), ("variance_ratio", "raw ratio"),
           ("normalized_ratio", "norm. ratio"), ("predicted_ratio", "predicted"))
RATIOS = (("variance_ratio", "raw"), ("normalized_ratio", "scale-normalized"),
          ("predicted_ratio", "predicted by the band"))
MEANING = ("Raw: the trace of the covariance of the batches' gradients. Normalized: that over the squared norm of "
           "their mean, which a change of scale leaves alone. Ratios are without whitening over with it, above 1 "
           "where whitening lowers the variance.")


def is_variance(folder: str | pathlib.Path) -> bool:
  """Whether the folder holds this study."""
  return (pathlib.Path(folder) / RESULTS).exists()


def leave(folder: pathlib.Path, content: dict[str, Any]) -> None:
  """Writes variance.json, variance.txt, variance.png and report.html; `content` has "about", "batches", "results"."""
  write_json(folder / RESULTS, content)
  write_text(folder / "variance.txt", table(content) + "\n")
  save_picture(folder / "variance.png", content["results"])
  write(folder / "report.html", folder)


def table(content: dict[str, Any]) -> str:
  """The study as text."""
  name = content["about"]["config"]
  lines = [f"Variance of the parameter gradient over {content['batches']} batches, config {name}.",
           "Ratios: without over with whitening; above 1 where whitening lowers it."]
  for when, rows in content["results"].items():
    lines += ["", f"{when:>15} " + " ".join(f"{title:>12}" for _, title in COLUMNS)]
    lines += [f"{method:>15} " + " ".join(f"{row[key]:12.4g}" for key, _ in COLUMNS) for method, row in rows.items()]
    lines += [f"{'':15} {method}: {verdict(row)}" for method, row in rows.items() if method != "none"]
  return "\n".join(lines)


def verdict(row: dict[str, float]) -> str:
  """What a method's row says in words: the prediction is of the embedding gradients' bound, not of the parameters'."""
  measured = "lowers" if row["normalized_ratio"] > 1 else "raises"
  predicted = "a fall" if row["predicted_ratio"] > 1 else "a rise"
  agreement = "as" if (row["normalized_ratio"] > 1) == (row["predicted_ratio"] > 1) else "where"
  return (f"whitening {measured} the parameter gradient's variance, {agreement} the band, which bounds the gradient "
          f"with respect to embeddings, predicts {predicted}")


def save_picture(path: pathlib.Path, results: dict[str, Any]) -> None:
  """Measured ratios beside the predicted one, for each method and stage."""
  with pictures.style():
    figure = Figure(figsize=(5.2 * len(results), 3.6), layout="constrained")
    axes = figure.subplots(1, len(results), squeeze=False)
    for axis, (when, rows) in zip(axes.flat, results.items()):
      methods = [method for method in rows if method != "none"]
      for k, ((key, label), color) in enumerate(zip(RATIOS, charts.PALETTE)):
        axis.bar(np.arange(len(methods)) + 0.26 * (k - 1), [rows[m][key] - 1 for m in methods], 0.24,
                 bottom=1, color=color, label=label)
      axis.axhline(1, color=pictures.INK, linewidth=0.8)
      axis.set_yscale("log")
      for labels in (axis.yaxis.set_major_formatter, axis.yaxis.set_minor_formatter):
        labels(LogFormatter(minor_thresholds=(2, 0.7)))
      axis.set_xticks(range(len(methods)), methods)
      axis.set_title(f"Variance without over with whitening, {when}")
    axes[0, 0].legend(fontsize=8)
    pictures.save(figure, path)


def write(path: str | pathlib.Path, folder: str | pathlib.Path) -> pathlib.Path:
  """Writes the page of a study's folder whole or not at all; returns its path."""
  folder = pathlib.Path(folder).absolute()
  content = read_json(folder / RESULTS, {"about": dict, "results": dict, "batches": int})
  return write_text(path, page(folder.name, content))


def page(name: str, content: dict[str, Any]) -> str:
  """The whole page, from the content of variance.json."""
  about, results = content["about"], content["results"]
  bars = [(f"{when}, {method}" if len(rows) > 2 else when, label, row[key])
          for when, rows in results.items() for method, row in rows.items() if method != "none"
          for key, label in RATIOS]
  stages = [html.section(
      when.capitalize(),
      html.table(["whitening", *(title for _, title in COLUMNS), "loss"],
                 [[method, *(row[key] for key, _ in COLUMNS), row["loss"]] for method, row in rows.items()]),
      *(html.paragraph(f"{method}: {verdict(row)}.") for method, row in rows.items() if method != "none"))
            for when, rows in results.items()]
  setting = [f"{content['batches']} batches", about["setting"].rstrip("."), about["hardware"], about["date"]]
  return html.page(name, "\n".join([
      f"<h1>{html.text(name)}</h1>", f"<p><code>{html.text(about['command'])}</code></p>",
      html.paragraph("; ".join(setting) + "."), html.section(
          "Variance of the parameter gradient, without whitening over with it",
          html.grid([html.card("Above 1: whitening lowers it", html.chart(charts.ratios(bars)))]),
          html.paragraph(MEANING)),
      *stages]))
