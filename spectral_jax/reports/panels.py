"""The charts of a report: which metrics belong together, and the cards that runs' series make of them."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from spectral_jax.evaluation import SCORES
from spectral_jax.evaluation.alignment import LAYERS
from spectral_jax.reports import charts, html
from spectral_jax.training.diagnostics import VANISHED

if TYPE_CHECKING:
  from collections.abc import Sequence

  from spectral_jax.reports.recorded import Recorded

# Lines that an eye still tells apart.
MOST_LINES = 20
# Figures in a row; more stand in a table.
FEW = 4


class Panel(NamedTuple):
  """One chart: metrics that belong together, by their names without a learner's."""
  title: str
  metrics: tuple[tuple[str, str], ...]   # metric and its name in the legend
  logarithmic: bool = False
  band: tuple[str, str] | None = None    # metrics drawn as an area
  note: str = ""


# Measures of features, of either part of the data and either layer of a network.
OF_PAIRS = {"cka": "Linear CKA", "cka_unbiased": "Linear CKA, unbiased", "rsa": "RSA",
            "mutual_knn": "Mutual nearest neighbors"}
OF_FEATURES = {"cdnv": "CDNV", "directional_cdnv": "Directional CDNV"}
WORDS = {**OF_PAIRS, **OF_FEATURES, **{one.key: one.title for one in SCORES}}


def _of(measures, *, logarithmic=False, left_out=()):
  return tuple(Panel(f"{title}, {layer}, test set", ((f"test_{layer}_{key}", title),), logarithmic)
               for key, title in measures.items() if key not in left_out for layer in LAYERS)


PANELS = {
    "Learning": (
        Panel("Loss", (("loss", "loss"),)),
        Panel("Accuracy of nearest neighbors, test set", (("knn_accuracy", "kNN"),)),
        Panel("Accuracy of nearest class centers, test set", (("nccc_accuracy", "NCCC"),)),
        Panel("Norm of the gradient of the parameters", (("gradient_norm", "gradient norm"),), True),
        Panel("Learning rate", (("learning_rate", "learning rate"),))),
    "Gradients of the embeddings, and their bounds": (
        Panel("Squared gradient norm, mean over anchors, in its band",
              (("band_lower", "lower bound"), ("band_upper", "upper bound"), ("band_value", "measured")), True,
              ("band_lower", "band_upper")),
        Panel("Bounds over the measured norm",
              (("band_upper_ratio", "upper bound"), ("band_lower_ratio", "lower bound"))),
        Panel("Effective negatives of an anchor", (("effective_negatives", "effective negatives"),)),
        Panel(f"Share of anchors whose gradient has vanished, q < {VANISHED}",
              (("vanished_share", "share"),))),
    "How the embedding uses its space": (
        Panel("Effective ranks of the embeddings",
              (("effective_rank", "entropy"), ("effective_rank_rankme", "RankMe"),
               ("effective_rank_participation", "participation"), ("effective_rank_stable", "stable"))),
        Panel("Largest eigenvalue's share", (("top_eigenvalue", "share"),)),
        Panel("Alignment", (("alignment", "alignment"),)),
        Panel("Uniformity", (("uniformity", "uniformity"),))),
    "Batches": (
        Panel("Effective rank of batches, in the bank", (("selected_rank", "selected"), ("random_rank", "random"))),
        Panel("Seconds of choosing batches",
              (("selection_seconds", "selection"), ("refresh_seconds", "making the bank")))),
    "Learners side by side": (
        *_of(OF_PAIRS, left_out=("cka_unbiased",)),
        Panel("Weight gap", (("weight_gap", "weight gap"),)),
        Panel("CKA of the similarities, its lower bound dashed",
              (("similarity_cka", "measured"), ("similarity_cka_bound", "bound"))),
        Panel("RSA of the similarities, its lower bound dashed",
              (("similarity_rsa", "measured"), ("similarity_rsa_bound", "bound"))),
        Panel("Drift of the similarities, its bound dashed",
              (("similarity_drift", "measured"), ("similarity_drift_bound", "bound")), True),
        Panel("Contrastive minus label-aware loss, its bound dashed",
              (("loss_gap", "measured"), ("loss_gap_bound", "bound"))),
        *_of(OF_FEATURES, logarithmic=True)),
}


def named(metric: str) -> str:
  """A metric's name in words.

  >>> named("test_encoder_cka_unbiased"), named("similarity_rsa_bound"), named("linear_accuracy")
  ('Linear CKA, unbiased, encoder, test set', 'similarity RSA bound', 'linear probe')
  """
  part, _, rest = metric.partition("_")
  layer, _, key = rest.partition("_")
  if part in ("train", "test") and layer in LAYERS:
    return f"{named(key)}, {layer}, {'training' if part == 'train' else part} set"
  return WORDS.get(metric) or " ".join(word.upper() if word in ("cka", "rsa") else word for word in metric.split("_"))


def charts_of(runs: Sequence[Recorded]) -> tuple[dict[str, list[str]], list[str]]:
  """`({group: cards}, other cards)`: the panels that have data, and whatever else was measured."""
  total = sum(len(run.series) for run in runs)
  most = max(40, min(charts.MOST_POINTS, charts.PAGE_POINTS // max(total, 1)))
  used, groups = set(), {}
  for group, panels in PANELS.items():
    groups[group] = [card for panel in panels for card in _cards(runs, panel, most, used)]
  others = []
  for bare in dict.fromkeys(_bare(key) for run in runs for key in run.series if key not in used):
    others += _cards(runs, Panel(bare.replace("_", " "), ((bare, bare),)), most, used)
  return groups, others


def _bare(key):
  return key.rpartition("/")[2]


def _cards(runs, panel, most, used):
  """The cards of a panel: one with all its metrics where there is one source, else one for each metric."""
  sources = {}
  for run in runs:
    for owner in dict.fromkeys(key.rpartition("/")[0] for key in run.series):
      names = [f"{owner}/{metric}" if owner else metric for metric, _ in panel.metrics]
      found = {metric: run.series[name] for (metric, _), name in zip(panel.metrics, names)
               if any(np.isfinite(v) for v in run.series.get(name, {}).values())}
      # The main learner's accuracy stands for a run of several a second time, without a name.
      repeated = not owner and any(key.endswith(f"/{panel.metrics[0][0]}") for key in run.series)
      if found and not repeated:
        sources[line_name(run, owner, runs)] = found
      used.update(name for name in names if name in run.series)
  if not sources:
    return []
  if len(sources) > 1 and all(found == next(iter(sources.values())) for found in sources.values()):
    sources = {"": next(iter(sources.values()))}  # the same line many times, such as the learning rate of every learner
  titles = dict(panel.metrics)
  bounds = [metric for metric in titles if metric.endswith("_bound")]
  if panel.band:
    return [html.card(panel.title + (f": {source}" if source else ""), _drawn(
        {titles[metric]: points for metric, points in found.items()}, logarithmic=panel.logarithmic, most=most,
        bands=[tuple(titles[metric] for metric in panel.band) + ("band",)] if set(panel.band) <= set(found) else []))
        for source, found in list(sources.items())[:MOST_LINES] if set(found) - set(panel.band)]
  if len(sources) == 1:
    [(source, found)] = sources.items()
    series = [{titles[metric]: points for metric, points in found.items()}]
    heads = [panel.title + (f": {source}" if source else "")]
    dashed = [titles[metric] for metric in bounds]
  elif bounds:
    series = [{(source if metric not in bounds else f"{source}, bound"): points for source, found in sources.items()
               for metric, points in found.items()}]
    heads, dashed = [panel.title], [name for name in series[0] if name.endswith(", bound")]
  else:
    series = [{source: found[metric] for source, found in sources.items() if metric in found} for metric in titles]
    heads = [panel.title + (f": {title}" if len(titles) > 1 else "") for title in titles.values()]
    dashed = ()
  baselines = _baselines(runs) if panel.metrics[0][0] == "knn_accuracy" else None
  cards = []
  for head, lines in zip(heads, series):
    if not lines:
      continue
    left = len(lines) - MOST_LINES
    lines = dict(list(lines.items())[:MOST_LINES])
    note = html.paragraph(f"The first {MOST_LINES} lines; {left} more are left out.") if left > 0 else ""
    cards.append(html.card(head, _drawn(
        lines, logarithmic=panel.logarithmic and _positive(lines), baselines=baselines, dashed=dashed,
        most=most) + note))
  return cards


def _drawn(lines, *, baselines=None, **options):
  """The chart of `charts.lines`, or in figures what was measured once: a single point says nothing by its place."""
  steps = {step for points in lines.values() for step in points}
  if len(steps) > 1:
    return html.chart(charts.lines(lines, baselines=baselines, **options))
  [step] = steps
  figures = {name: points[step] for name, points in lines.items()} | (baselines or {})
  return html.paragraph(f"Measured once, at step {step:,}:") + (
      html.facts(figures) if len(figures) <= FEW else html.table(["", "value"], list(map(list, figures.items()))))


def _positive(lines):
  return all(value > 0 for points in lines.values() for value in points.values() if np.isfinite(value))


def line_name(run: Recorded, owner: str, runs: Sequence[Recorded]) -> str:
  """Whose a line is: a learner's or a pair's, and of several runs which run's."""
  owner = owner.replace("~", " ~ ")
  return owner if len(runs) == 1 else f"{run.name}: {owner}" if owner else run.name


def _baselines(runs):
  found = {run.name: run.summary["raw_pixels"]["knn_accuracy"] for run in runs if "raw_pixels" in run.summary}
  if len(set(found.values())) == 1:
    return {"raw pixels": next(iter(found.values()))}
  return {f"raw pixels, {name}": value for name, value in found.items()}
