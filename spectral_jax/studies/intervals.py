"""What several seeds say: means, confidence intervals, and what it took to reach a target."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np
from scipy.special import stdtrit
from scipy.stats import rankdata

from spectral_jax.evaluation import SCORES

if TYPE_CHECKING:
  from collections.abc import Mapping, Sequence
  from typing import Any

  from jaxtyping import ArrayLike, Float


def interval(values: Sequence[float]) -> tuple[float, float]:
  """Returns `(mean, half)`: the mean and half the width of its 95% confidence interval; NaN for one value.

  >>> mean, half = interval([1.0, 2.0, 3.0])
  >>> print(f"{mean:.3f} {half:.3f}")
  2.000 2.484
  """
  x = np.asarray(values, float)
  n = len(x)
  if n < 2:
    return (float(x.mean()) if n else math.nan), math.nan
  return float(x.mean()), float(stdtrit(n - 1, 0.975) * x.std(ddof=1) / math.sqrt(n))


def spearman(x: Float[ArrayLike, " n"], y: Float[ArrayLike, " n"], *, draws: int = 2000,
             seed: int = 0) -> tuple[float, float, float]:
  """Returns `(rank correlation, low, high)` with a 95% percentile interval from `draws` resamplings of the pairs.

  NaN where one of the two is constant; resamplings in which it is do not count.

  >>> print("%.2f" % spearman([1, 2, 3, 4, 5], [2, 1, 4, 3, 5])[0])
  0.80
  """
  x, y = np.asarray(x, float), np.asarray(y, float)
  random = np.random.default_rng(seed)
  resampled = [_rank_correlation(x[some], y[some]) for some in random.integers(0, len(x), (draws, len(x)))]
  resampled = [value for value in resampled if not math.isnan(value)]
  low, high = np.percentile(resampled, (2.5, 97.5)) if resampled else (math.nan, math.nan)
  return _rank_correlation(x, y), float(low), float(high)


def _rank_correlation(x, y):
  """Pearson's correlation of the ranks, ties sharing the mean of theirs."""
  a, b = rankdata(x) - (len(x) + 1) / 2, rankdata(y) - (len(y) + 1) / 2
  length = math.sqrt((a @ a) * (b @ b))
  return float(a @ b / length) if length else math.nan


def first_reaching(curve: Sequence[Mapping[str, Any]], name: str, target: float) -> Mapping[str, Any] | None:
  """The first point of a curve whose `name` is at least `target`, or None."""
  return next((point for point in curve if point[name] >= target), None)


def summarize(results: Sequence[Mapping[str, Any]], targets: Mapping[str, float]) -> Any:
  """One row a rule: final scores, differences from `random` seed by seed, and what the targets took.

  Args:
    results: what `run_cases` returns, as a list, each with its `rule` and `seed`.
    targets: `{"knn_accuracy": ..., "linear_accuracy": ...}`.

  Returns:
    A dict of dicts; entries are `(mean, half)`, reached targets also with how many seeds reached them. Ratios are to
    `random` of the same seed: over the seeds that both have, or that both reach the target with.
  """
  by_rule = {}
  for result in results:
    by_rule.setdefault(result["rule"], {})[result["seed"]] = result
  return {rule: _row(runs, by_rule.get("random", {}), targets) for rule, runs in by_rule.items()}


def _row(runs, random, targets):
  final = {seed: run["curve"][-1] for seed, run in runs.items()}
  seconds = [point["seconds"] for point in final.values()]
  row = {"seeds": len(runs), "seconds": interval(seconds), "fastest": min(seconds), "slowest": max(seconds)}
  row["processor_seconds"] = interval(_known(final.values(), "processor_seconds"))
  row["processor_ratio"] = _ratio(final, {seed: run["curve"][-1] for seed, run in random.items()})
  ranks = [run["mean_selected_rank"] / run["mean_random_rank"] for run in runs.values() if "mean_random_rank" in run]
  row["rank_ratio"] = interval(ranks) if ranks else None
  for name, _, _ in SCORES:
    row[name] = interval([point[name] for point in final.values()])
    row[f"{name}_gain"] = interval([
        final[seed][name] - random[seed]["curve"][-1][name] for seed in final if seed in random])
  for name, target in targets.items():
    reached, by_random = ({seed: point for seed, run in of.items()
                           if (point := first_reaching(run["curve"], name, target))} for of in (runs, random))
    row[f"{name}_target"] = {"reached": len(reached), "processor_ratio": _ratio(reached, by_random), **{
        key: interval(_known(reached.values(), key)) for key in ("seconds", "processor_seconds", "step", "examples")}}
  return row


def _known(points, key):
  """The values of `key`; runs from before 0.2 have no processor seconds."""
  return [point[key] for point in points if key in point]


def _ratio(points, others):
  """Processor seconds of `{seed: point}` over those of `others`, seed by seed."""
  pairs = [_known((point, others[seed]), "processor_seconds") for seed, point in points.items() if seed in others]
  return interval([pair[0] / pair[1] for pair in pairs if len(pair) == 2])
