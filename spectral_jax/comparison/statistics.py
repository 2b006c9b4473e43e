"""What several seeds say: means, confidence intervals, and what it took to reach a target."""

import math

import numpy as np

# Two-sided 95% points of Student's t by degrees of freedom; beyond the table the next smaller entry, which is wider.
T_95 = {1: 12.706, 2: 4.303, 3: 3.182, 4: 2.776, 5: 2.571, 6: 2.447, 7: 2.365, 8: 2.306, 9: 2.262, 10: 2.228, 12: 2.179,
        15: 2.131, 20: 2.086, 30: 2.042, 60: 2.000, 120: 1.980}


def interval(values):
  """Returns `(mean, half)`: the mean and half the width of its 95% confidence interval; NaN for one value.

  >>> mean, half = interval([1.0, 2.0, 3.0])
  >>> print(f"{mean:.3f} {half:.3f}")
  2.000 2.484
  """
  values = np.asarray(values, float)
  n = len(values)
  if n < 2:
    return (float(values.mean()) if n else math.nan), math.nan
  t = T_95[max(k for k in T_95 if k <= n - 1)]
  return float(values.mean()), float(t * values.std(ddof=1) / math.sqrt(n))


def first_reaching(curve, name, target):
  """The first point of a curve whose `name` is at least `target`, or None."""
  return next((point for point in curve if point[name] >= target), None)


def summarise(results, targets):
  """One row a rule: final scores, differences from `random` seed by seed, and what the targets took.

  Args:
    results: what `run_all` returns.
    targets: `{"knn_accuracy": ..., "linear_accuracy": ...}`.

  Returns:
    A dict of dicts; entries are `(mean, half)`, reached targets also with how many seeds reached them.
  """
  by_rule = {}
  for result in results:
    by_rule.setdefault(result["rule"], {})[result["seed"]] = result
  return {rule: _row(runs, by_rule.get("random", {}), targets) for rule, runs in by_rule.items()}


def _row(runs, random, targets):
  final = {seed: run["curve"][-1] for seed, run in runs.items()}
  seconds = [point["seconds"] for point in final.values()]
  row = {"seeds": len(runs), "seconds": interval(seconds), "fastest": min(seconds), "slowest": max(seconds)}
  row["selection_share"] = interval([
      (run["refresh_seconds"] + run["selection_seconds"]) / run["curve"][-1]["seconds"] for run in runs.values()])
  ranks = [run["mean_selected_rank"] / run["mean_random_rank"] for run in runs.values() if "mean_random_rank" in run]
  row["rank_ratio"] = interval(ranks) if ranks else None
  for name in ("linear_accuracy", "knn_accuracy", "five_shot_accuracy"):
    row[name] = interval([point[name] for point in final.values()])
    row[f"{name}_gain"] = interval([
        final[seed][name] - random[seed]["curve"][-1][name] for seed in final if seed in random])
  for name, target in targets.items():
    reached = [point for run in runs.values() if (point := first_reaching(run["curve"], name, target))]
    row[f"{name}_target"] = {"reached": len(reached), **{
        key: interval([point[key] for point in reached]) for key in ("seconds", "step", "examples")}}
  return row
