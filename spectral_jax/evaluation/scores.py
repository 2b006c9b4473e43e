"""The three figures that every representation is judged by."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import jax.numpy as jnp

from spectral_jax import preemption
from spectral_jax.evaluation.probes import few_shot_accuracy, linear_accuracy
from spectral_jax.metrics import knn_accuracy

if TYPE_CHECKING:
  from jaxtyping import ArrayLike, Float, Int

  from spectral_jax._types import Config


class Score(NamedTuple):
  key: str       # in summary.json and metrics.jsonl
  title: str     # in tables and over pictures
  short: str     # at the head of a column


SCORES = (
    Score("knn_accuracy", "k nearest neighbors", "kNN"),
    Score("linear_accuracy", "linear probe", "linear"),
    Score("few_shot_accuracy", "few labels a class", "few labels"),
)


def few_labels(shots: int) -> str:
  """The title of the few-label accuracy with so many labels.

  >>> few_labels(1), few_labels(5)
  ('1 label a class', '5 labels a class')
  """
  return f"{shots} label{'s' * (shots != 1)} a class"


def score(train_z: Float[ArrayLike, "n d"], train_y: Int[ArrayLike, " n"], test_z: Float[ArrayLike, "m d"],
          test_y: Int[ArrayLike, " m"], *, num_classes: int, config: Config, seed: int = 0) -> dict[str, float]:
  """Returns kNN, linear and k-shot accuracy of frozen features.

  Args:
    train_z: `(m, d)` features of the training set.
    train_y: `(m,)` integer classes.
    test_z: `(n, d)` features of the test set.
    test_y: `(n,)` integer classes.
    num_classes: number of classes.
    config: the config's `eval` section.
    seed: of the random draws of labeled examples.

  Returns:
    A dict of floats: `knn_accuracy`, `linear_accuracy`, `few_shot_accuracy` (with `config.shots` labels a class).
  """
  train_y, test_y = jnp.asarray(train_y), jnp.asarray(test_y)
  sets = (train_z, train_y, test_z, test_y)
  probes = (
      lambda: knn_accuracy(*sets, k=config.knn_k),
      lambda: linear_accuracy(*sets, num_classes=num_classes, c=config.probe_c, steps=config.probe_steps),
      lambda: few_shot_accuracy(*sets, num_classes=num_classes, shots=config.shots, draws=config.shot_draws,
                                c=config.probe_c, steps=config.shot_steps, seed=seed))
  scores = {}
  for one, probe in zip(SCORES, probes):
    preemption.check()
    scores[one.key] = float(probe())
  return scores
