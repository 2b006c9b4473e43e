"""What a run of several learners says of them: how alike every two are, what the theorems allow, two pictures."""

from __future__ import annotations

from typing import TYPE_CHECKING

from spectral_jax.reports import pictures
from spectral_jax.workdir.logs import read_metrics

if TYPE_CHECKING:
  import pathlib
  from collections.abc import Mapping, Sequence
  from typing import Any

COLUMNS = (("test_encoder_cka", "CKA"), ("test_encoder_cka_unbiased", "unbiased CKA"), ("test_encoder_rsa", "RSA"),
           ("test_encoder_mutual_knn", "mutual kNN"), ("test_projector_cka", "projector CKA"),
           ("weight_gap", "weight gap"))
ROUNDING = 1e-4  # float32's, of measures near 1


def of_pairs(records: Sequence[Mapping[str, Any]]) -> dict[str, dict[str, float]]:
  """`{pair: {metric: last value}}` from the records of metrics.jsonl.

  >>> of_pairs([{"step": 1, "a~b/weight_gap": 0.1, "a/loss": 1}, {"step": 2, "a~b/weight_gap": 0.2}])
  {'a~b': {'weight_gap': 0.2}}
  """
  found = {}
  for record in records:
    for key, value in record.items():
      pair, slash, metric = key.partition("/")
      if slash and "~" in pair:
        found.setdefault(pair, {})[metric] = value
  return found


def of_bounds(pairs: Mapping[str, Mapping[str, float]],
              records: Sequence[Mapping[str, Any]]) -> dict[str, dict[str, Any]]:
  """Each measured quantity beside its bound: `{what: {"measured", "bound", "vacuous", "exceeded"}}`.

  A vacuous bound says nothing: a bound on the drift of similarities from the largest drift that any cosines could have;
  a lower bound on CKA or RSA at 0 or below, where the one always and the other by chance lies. The drift's theorem is
  on gradient descent on the similarities themselves: a run, which descends in its parameters, may exceed it.

  Args:
    pairs: from `of_pairs`.
    records: of metrics.jsonl.
  """
  said = {}
  for pair, of_pair in pairs.items():
    drift = {"measured": of_pair["similarity_drift"], "largest": of_pair["similarity_drift_largest"]}
    if "similarity_drift_bound" in of_pair:
      bound = of_pair["similarity_drift_bound"]
      said[f"{pair}/similarity_drift"] = {
          **drift, "bound": bound, "vacuous": not bound < drift["largest"], "exceeded": drift["measured"] > bound}
    for name in ("similarity_cka", "similarity_rsa"):
      bound = of_pair[f"{name}_bound"]
      said[f"{pair}/{name}"] = {"measured": of_pair[name], "bound": bound, "vacuous": not bound > 0,
                                "exceeded": of_pair[name] < bound - ROUNDING}
  last = {key: value for record in records for key, value in record.items()
          if key.endswith(("/loss_gap", "/loss_gap_bound"))}
  for key, value in last.items():
    if key.endswith("/loss_gap"):
      bound = last[f"{key}_bound"]
      said[key] = {"measured": value, "bound": bound, "vacuous": False, "exceeded": value > bound + ROUNDING}
  return said


def summary(folder: pathlib.Path) -> dict[str, Any]:
  """What summary.json has of the pairs."""
  records = read_metrics(folder)
  pairs = of_pairs(records)
  return {"pairs": pairs, "bounds": of_bounds(pairs, records)}


def print_table(found: Mapping[str, Any]) -> None:
  """Prints how alike the pairs are and what the bounds say, from what `summary` returns."""
  width = max(len(pair) for pair in found["pairs"])
  print(f"\nPairs, on the test set {'':{max(0, width - 22)}}" + "".join(f"{title:>15}" for _, title in COLUMNS))
  for pair, of_pair in found["pairs"].items():
    print(f"{pair:{max(width, 22)}} " + "".join(f"{of_pair[key]:15.4f}" for key, _ in COLUMNS))
  print("\nBounds, on training images")
  for name, row in found["bounds"].items():
    side = "at least" if name.endswith(("cka", "rsa")) else "at most"
    remark = "  vacuous: it says nothing" if row["vacuous"] else \
        "  exceeded: the theorem is on descent on the similarities, not on parameters" if row["exceeded"] else ""
    print(f"  {name}: {row['measured']:.4g}, {side} {row['bound']:.4g}{remark}")


def draw(folder: pathlib.Path, found: Mapping[str, Any]) -> None:
  """Writes alignment.png and pairs.png."""
  pictures.save_alignment(folder / "alignment.png", read_metrics(folder))
  pictures.save_heatmaps(folder / "pairs.png", {title: {pair: of_pair[key] for pair, of_pair in found["pairs"].items()}
                                                for key, title in COLUMNS})
