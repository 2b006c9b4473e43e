"""The pictures that a run leaves: curves, augmented pairs, spectrum, nearest neighbors, pairs of learners."""

from __future__ import annotations

import itertools
import math
from typing import TYPE_CHECKING

import matplotlib
import numpy as np
from matplotlib.figure import Figure  # not pyplot: it would choose a backend for the whole process
from matplotlib.patches import Rectangle
from matplotlib.ticker import LogFormatter, MaxNLocator

from spectral_jax.training.diagnostics import VANISHED
from spectral_jax.workdir.folder import whole

if TYPE_CHECKING:
  import pathlib
  from collections.abc import Mapping, Sequence
  from contextlib import AbstractContextManager
  from typing import Any

  from jaxtyping import Array, Float, Int

INK, BLUE, ORANGE, GREEN, RED, GRAY = "#222222", "#2b6cb0", "#dd6b20", "#2f855a", "#c53030", "#a0aec0"
STYLE = {
    "font.size": 9, "axes.spines.top": False, "axes.spines.right": False, "axes.edgecolor": INK,
    "axes.titlesize": 10, "axes.titleweight": "bold", "axes.titlelocation": "left", "axes.grid": True,
    "grid.color": "#e2e8f0", "grid.linewidth": 0.6, "legend.frameon": False, "lines.linewidth": 1.4,
    "figure.facecolor": "white", "savefig.dpi": 130}

# Panels of the curves: title, then each line's key, name and color. A panel without data is left out.
PANELS = (
    ("Loss", (("loss", "", BLUE),)),
    ("Accuracy of nearest neighbors (test set)", (("knn_accuracy", "kNN", GREEN),)),
    ("Effective ranks of the embeddings", (
        ("effective_rank", "entropy", BLUE), ("effective_rank_rankme", "RankMe", ORANGE),
        ("effective_rank_participation", "participation", GREEN), ("effective_rank_stable", "stable", RED))),
    ("Squared gradient norm, mean over anchors", (
        ("band_upper", "upper bound", ORANGE), ("band_value", "measured", BLUE), ("band_lower", "lower bound", GREEN))),
    ("Bounds over the measured norm: how tight", (
        ("band_upper_ratio", "upper bound", ORANGE), ("band_lower_ratio", "lower bound", GREEN))),
    ("Effective negatives of an anchor", (("effective_negatives", "", BLUE),)),
    ("Shares, between 0 and 1", (
        ("vanished_share", f"of the anchors: those with q < {VANISHED}", RED),
        ("top_eigenvalue", "of the trace: the largest eigenvalue", BLUE))),
    ("Alignment and uniformity", (("alignment", "alignment", BLUE), ("uniformity", "uniformity", ORANGE))),
    ("Effective rank of batches, in the bank", (
        ("selected_rank", "selected", BLUE), ("random_rank", "random", GRAY))),
    ("Learning rate", (("learning_rate", "", INK),)),
)
LOGARITHMIC = ("Squared gradient norm, mean over anchors",)


def save_curves(path: pathlib.Path, records: Sequence[Mapping[str, Any]], baseline: float | None = None) -> None:
  """Draws each metric against the step; `baseline` is the raw pixels' kNN accuracy, a dotted line."""
  with style():
    save(curves(records, baseline), path)


def curves(records: Sequence[Mapping[str, Any]], baseline: float | None = None) -> Figure:
  """The same as a figure."""
  panels = [(title, [(key, name, color) for key, name, color in lines if _series(records, key)[0]])
            for title, lines in PANELS]
  panels = [(title, lines) for title, lines in panels if lines]
  with style():
    rows, end = -(-len(panels) // 2), _end(records)
    figure = Figure(figsize=(10, 2.7 * rows), layout="constrained")
    axes = figure.subplots(rows, 2, squeeze=False)
    for axis, (title, lines) in zip(axes.flat, panels):
      for key, name, color in lines:
        steps, values = _series(records, key)
        axis.plot(steps, values, color=color, label=name, marker="." if len(steps) < 30 else None)
      if title in LOGARITHMIC:
        axis.set_yscale("log")
        for labels in (axis.yaxis.set_major_formatter, axis.yaxis.set_minor_formatter):
          labels(LogFormatter(minor_thresholds=(2, 0.7)))  # 30, and not 3 x 10^1
      if lines[0][0] == "knn_accuracy" and baseline is not None:
        axis.axhline(baseline, color=INK, linestyle=":", linewidth=1, label="raw pixels")
      if any(name for _, name, _ in lines):
        axis.legend(fontsize=8)
      axis.set(title=title, xlabel="step", xlim=(0, end))
      axis.xaxis.set_major_locator(MaxNLocator(nbins=8, integer=True))
    for axis in axes.flat[len(panels):]:
      axis.set_visible(False)
    return figure


def _end(records):
  """Where all axes of steps end, that of a metric measured once too: a little behind the last step."""
  return 1.03 * max((record["step"] for record in records), default=1)


def _series(records, key):
  points = [(r["step"], r[key]) for r in records if key in r and np.isfinite(r[key])]
  return [list(part) for part in zip(*points)] if points else [[], []]


# Panels of the learners' alignment: title, the metric, whether its bound stands beside it.
ALIGNED = (
    ("Accuracy of nearest neighbors (test set)", "knn_accuracy", False),
    ("CKA of the features (test set)", "test_encoder_cka", False),
    ("RSA of the features (test set)", "test_encoder_rsa", False),
    ("Mutual nearest neighbors of the features (test set)", "test_encoder_mutual_knn", False),
    ("Weight gap", "weight_gap", False),
    ("CKA of the projections (test set)", "test_projector_cka", False),
    ("CKA of similarities, lower bound dotted", "similarity_cka", True),
    ("Drift of similarities, bound dotted", "similarity_drift", True),
    ("Loss gap to label-aware, bound dotted", "loss_gap", True))


def save_alignment(path: pathlib.Path, records: Sequence[Mapping[str, Any]]) -> None:
  """Draws each metric of learners and pairs over the steps, a line for each; bounds are dotted."""
  keys = dict.fromkeys(key for record in records for key in record)
  with style():
    figure = Figure(figsize=(13, 9.6), layout="constrained")
    axes = figure.subplots(3, 3)
    colors = _owner_colors(keys)
    for axis, (title, metric, bounded) in zip(axes.flat, ALIGNED):
      for owner in [key.partition("/")[0] for key in keys if key.partition("/")[2] == metric]:
        steps, values = _series(records, f"{owner}/{metric}")
        axis.plot(steps, values, color=colors[owner], label=owner.replace("~", " ~ "),
                  marker="." if len(steps) < 30 else None)
        if bounded:
          axis.plot(*_series(records, f"{owner}/{metric}_bound"), color=colors[owner], linestyle=":",
                    marker="_" if len(steps) < 30 else None)
      if metric == "similarity_drift":
        axis.set_yscale("log")
      axis.set(title=title, xlabel="step", xlim=(0, _end(records)))
      axis.xaxis.set_major_locator(MaxNLocator(nbins=6, integer=True))
    for axis, place in ((axes[0, 0], "outside upper center"), (axes[0, 1], "outside lower center")):  # learners; pairs
      handles, names = axis.get_legend_handles_labels()
      figure.legend(handles, names, fontsize=8, ncols=6, loc=place)  # pyright: ignore[reportArgumentType]
    save(figure, path)


def _owner_colors(keys):
  """A color for each learner, and for each pair."""
  owners = dict.fromkeys(key.partition("/")[0] for key in keys if "/" in key)
  palettes = {side: itertools.cycle(matplotlib.colormaps["tab10"].colors) for side in (True, False)}  # pyright: ignore[reportAttributeAccessIssue]
  return {owner: next(palettes["~" in owner]) for owner in owners}


def save_heatmaps(path: pathlib.Path, values: Mapping[str, Mapping[str, float]]) -> None:
  """Draws a matrix of the learners for each measure; `values` maps a measure to `{"a~b": value}`."""
  names = list(dict.fromkeys(name for pairs in values.values() for pair in pairs for name in pair.split("~")))
  with style():
    figure = Figure(figsize=(3.1 + 0.75 * len(names) * 3, 1.6 + 0.62 * len(names) * 2), layout="constrained")
    axes = figure.subplots(2, -(-len(values) // 2), squeeze=False)
    for axis, (title, pairs) in zip(axes.flat, values.items()):
      matrix = np.full((len(names), len(names)), np.nan)
      for pair, value in pairs.items():
        i, j = (names.index(name) for name in pair.split("~"))
        matrix[i, j] = matrix[j, i] = value
      axis.imshow(matrix, cmap="Blues", vmin=0, vmax=1)
      for (i, j), value in np.ndenumerate(matrix):
        if i != j:
          axis.text(j, i, f"{value:.2f}", ha="center", va="center", color="white" if value > 0.6 else INK, fontsize=8)
      axis.set_title(title)
      axis.set_xticks(range(len(names)), names, rotation=30, ha="right")
      axis.set_yticks(range(len(names)), names)
      axis.grid(False)
    for axis in axes.flat[len(values):]:
      axis.set_visible(False)
    save(figure, path)


def save_pairs(path: pathlib.Path, originals: Float[np.ndarray, "n h w c"],
               views: Float[np.ndarray, "n 2 h w c"]) -> None:
  """Draws images `(n, h, w, c)` in [0, 1] above their two views `(n, 2, h, w, c)`."""
  images = np.stack([originals, views[:, 0], views[:, 1]])
  with style():
    figure = Figure(figsize=(0.9 * len(originals) + 0.7, 3.1), layout="constrained")
    axis = figure.subplots()
    _name_rows(axis, _mosaic(axis, images), ("image", "view u", "view v"))
    figure.suptitle("What the loss pulls together: two views of each image", fontsize=10, fontweight="bold", color=INK)
    save(figure, path)


def save_spectrum(path: pathlib.Path, spectra: Mapping[str, tuple[Array, float]]) -> None:
  """Draws normalized eigenvalues on a logarithmic axis; `spectra` maps a name to (eigenvalues, effective rank)."""
  with style():
    figure = Figure(figsize=(6.4, 3.8), layout="constrained")
    axis = figure.subplots()
    for (name, (values, rank)), color in zip(spectra.items(), (BLUE, GREEN, GRAY, ORANGE)):
      values = np.asarray(values)
      share = np.maximum(values / values.sum(), 1e-12)
      axis.plot(np.arange(1, len(share) + 1), share, color=color, label=f"{name}: effective rank {rank:.1f}")
    axis.set(title="Spectrum on the test set", xlabel="eigenvalue, from the largest", ylabel="share of the trace",
             xscale="log", yscale="log", ylim=(1e-6, 1.3))
    axis.legend()
    save(figure, path)


def save_neighbors(path: pathlib.Path, queries: Float[np.ndarray, "n h w c"], query_labels: Int[np.ndarray, " n"],
                   neighbors: Float[np.ndarray, "n k h w c"], neighbor_labels: Int[np.ndarray, "n k"],
                   class_names: Sequence[str]) -> None:
  """Draws test images `(n, h, w, c)` and the training images nearest to each, `(n, k, h, w, c)`.

  A green frame is of the same class, a red one of another, which is named.
  """
  count, near = neighbor_labels.shape
  with style():
    figure = Figure(figsize=(0.95 * (near + 1) + 0.6, 1.08 * count + 0.5), layout="constrained")
    axis = figure.subplots()
    boxes = _mosaic(axis, np.concatenate([queries[:, None], neighbors], axis=1))
    _name_rows(axis, boxes, [class_names[label] for label in query_labels])
    for (row, column), label in np.ndenumerate(neighbor_labels):
      box, same = boxes[row][column + 1], label == query_labels[row]
      left, top, width, height = box
      axis.add_patch(Rectangle((left, top), width, height, fill=False, color=GREEN if same else RED, linewidth=2,
                               clip_on=False))
      if not same:
        _name_above(axis, box, class_names[label], fontsize=8, color=RED)
    _name_above(axis, boxes[0][0], "test", fontsize=9)
    figure.suptitle("Nearest training images by cosine similarity of the features", fontsize=10, fontweight="bold",
                    color=INK)
    save(figure, path)


def _mosaic(axis, images):
  """Draws images `(rows, columns, h, w, c)` side by side on one axis, which takes a tenth of the time of an axis each.

  Returns the box of each, `(left, top, width, height)`, in pixels, y downward.
  """
  rows, columns, height, width, channels = images.shape
  right, down = math.ceil(0.12 * width), math.ceil(0.22 * height)  # between two images
  gray = channels == 1
  canvas = np.full((rows * (height + down) - down, columns * (width + right) - right, channels), 0.0 if gray else 1.0)
  boxes = [[(column * (width + right), row * (height + down), width, height) for column in range(columns)]
           for row in range(rows)]
  for of_row, of_boxes in zip(images, boxes):
    for image, (left, top, _, _) in zip(of_row, of_boxes):
      canvas[top:top + height, left:left + width] = image
  canvas = np.clip(canvas, 0, 1)
  axis.imshow(canvas[..., 0] if gray else canvas, cmap="gray_r" if gray else None, vmin=0, vmax=1,
              interpolation="nearest", extent=(0, canvas.shape[1], canvas.shape[0], 0))
  axis.set_axis_off()
  axis.grid(False)
  return boxes


def _name_above(axis, box, name, **style):
  left, top, width, _ = box
  axis.annotate(name, (left + width / 2, top), (0, 2), textcoords="offset points", ha="center", va="bottom", **style)


def _name_rows(axis, boxes, names):
  for (left, top, _, height), name in zip((row[0] for row in boxes), names):
    axis.annotate(name, (left, top + height / 2), (-4, 0), textcoords="offset points", ha="right", va="center")


def save(figure: Figure, path: pathlib.Path) -> None:
  """The picture appears whole or not at all, the same bytes from the same numbers."""
  with whole(path) as part:
    figure.savefig(part, format="png", metadata={"Software": None})


def style() -> AbstractContextManager[None]:
  """The house's look, for the pictures drawn within it."""
  return matplotlib.rc_context(STYLE)  # pyright: ignore[reportArgumentType]
