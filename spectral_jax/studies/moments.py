"""The variance of gradients that come one by one, and the state that such studies are made at."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from spectral_jax._errors import RunError

if TYPE_CHECKING:
  from jaxtyping import ArrayLike, Float

  from spectral_jax.training.run import Run
  from spectral_jax.training.state import State


class Moments:
  """Mean and summed squared distance from it of vectors that come one by one (Welford: no difference of large sums)."""

  def __init__(self):
    self.count, self.mean, self.squares = 0, 0.0, 0.0

  def add(self, vector: Float[ArrayLike, " d"]) -> None:
    vector = np.asarray(vector, np.float64)
    self.count += 1
    delta = vector - self.mean
    self.mean = self.mean + delta / self.count
    self.squares += delta @ (vector - self.mean)

  def row(self) -> dict[str, float]:
    """`variance`, the trace of the covariance; `squared_mean`, `||m||^2`; `normalized`, the one over the other."""
    variance, squared_mean = self.squares / (self.count - 1), self.mean @ self.mean  # pyright: ignore[reportOperatorIssue]
    return {"variance": float(variance), "normalized": float(variance / squared_mean),
            "squared_mean": float(squared_mean)}


def trained(run: Run, steps: int) -> State:
  """The state after that many steps of the run's config on random batches."""
  state, step = run.start(), 0
  while step < steps:
    table = run.plan.random_table(step // run.steps_per_epoch)[:steps - step]
    for batch in run.feed(table, step):
      state, metrics = run.step(state, batch)
      step += 1
  if steps and not np.isfinite(metrics["loss"]):
    raise RunError(f"the loss is {metrics['loss']} after {steps} steps; lower the learning rate or --train_steps")
  return state
