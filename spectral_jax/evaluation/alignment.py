"""How alike the representations of several learners are, and how far each has collapsed onto its classes.

Named "a~b/part_layer_metric" for a pair of learners and "a/part_layer_metric" for one: part "train" or "test", layer
"encoder" or "projector". Equations: docs/metrics.md; the pairs are those of arXiv 2510.08852.
"""

from __future__ import annotations

import functools
import itertools
from typing import TYPE_CHECKING

import jax
import jax.numpy as jnp
import numpy as np

from spectral_jax import bounds, metrics, preemption
from spectral_jax._arrays import unit_rows
from spectral_jax.evaluation.features import spread

if TYPE_CHECKING:
  from collections.abc import Mapping
  from typing import Any

  from jaxtyping import Array, ArrayLike, Float, Int, PyTree

LAYERS = ("encoder", "projector")
# Images whose neighborhoods are compared: the measure is a mean over them, and costs their square.
NEIGHBORHOODS = 2000
NEIGHBORS = 10


def pair_metrics(a: Float[Array, "n d1"], b: Float[Array, "n d2"]) -> dict[str, Float[Array, ""]]:
  """Linear CKA, biased and unbiased, Pearson RSA and mutual kNN of two representations of the same images.

  Args:
    a, b: `(n, d)` and `(n, e)` features.
  """
  some = spread(len(a), NEIGHBORHOODS)
  return {
      "cka": metrics.linear_cka(a, b), "cka_unbiased": metrics.linear_cka(a, b, unbiased=True),
      "rsa": metrics.rsa(a, b),
      "mutual_knn": metrics.mutual_knn(a[some], b[some], k=min(NEIGHBORS, len(some) - 1))}


def class_metrics(z: Float[ArrayLike, "n d"], labels: Int[ArrayLike, " n"],
                  num_classes: int | None = None) -> dict[str, Float[Array, ""]]:
  """CDNV and directional CDNV of features `(n, d)`; `num_classes` is to be known where it is compiled."""
  return {"cdnv": metrics.cdnv(z, labels, num_classes=num_classes),
          "directional_cdnv": metrics.directional_cdnv(z, labels, num_classes=num_classes)}


def similarity_metrics(a: Float[Array, "n d"], b: Float[Array, "n e"]) -> dict[str, Any]:
  """How far the cosine similarities of two representations have drifted apart, beside what that distance alone proves.

  Args:
    a, b: `(n, d)` and `(n, e)` representations of the same images; the similarities S are those of at most 2,000 of
      them.

  Returns:
    `similarity_drift`, `||S_a - S_b||_F`; `similarity_drift_largest`, what no two matrices of cosines exceed; the CKA
    and the RSA of the similarities, each with its lower bound by the drift.
  """
  some = spread(len(a), NEIGHBORHOODS)
  a, b = unit_rows(a[some]), unit_rows(b[some])
  k_a, k_b = (jnp.matmul(z, z.T, precision=jax.lax.Precision.HIGHEST) for z in (a, b))
  n = len(some)
  return {
      "similarity_drift": jnp.linalg.norm(k_a - k_b), "similarity_drift_largest": 2 * (n * (n - 1.0)) ** 0.5,
      "similarity_cka": metrics.linear_cka(a, b), "similarity_cka_bound": bounds.cka_lower_bound(k_a, k_b),
      "similarity_rsa": metrics.rsa(a, b), "similarity_rsa_bound": bounds.rsa_lower_bound(a, b)}


def alignment(found: Mapping[str, Any], labels: Mapping[str, ArrayLike],
              params: Mapping[str, PyTree]) -> dict[str, float]:
  """Every metric of every learner and of every pair of them.

  Args:
    found: `{learner: {part: (features, projections)}}` of the same images for all.
    labels: `{part: (n,)}`.
    params: `{learner: the network's parameters}`.

  Returns:
    A flat dictionary of floats.
  """
  said, num_classes = {}, max(len(np.unique(y)) for y in labels.values())
  for name, parts in found.items():
    said |= {f"{name}/{key}": value for key, value in _of_learner(parts, labels, num_classes).items()}
  for a, b in itertools.combinations(found, 2):
    preemption.check()
    said |= {f"{a}~{b}/{key}": value for key, value in _of_pair(found[a], found[b]).items()}
    said[f"{a}~{b}/weight_gap"] = metrics.weight_gap(params[a], params[b])
  return {key: float(value) for key, value in said.items()}


# One program for all of a learner, and one for all of a pair: a dozen small ones take twice as long to compile.
@functools.partial(jax.jit, static_argnames="num_classes")
def _of_learner(parts, labels, num_classes):
  said = {}
  for part, (i, layer) in itertools.product(parts, enumerate(LAYERS)):
    said |= {f"{part}_{layer}_{key}": value
             for key, value in class_metrics(parts[part][i], labels[part], num_classes).items()}
  said["nccc_accuracy"] = metrics.nccc_accuracy(
      parts["train"][0], labels["train"], parts["test"][0], labels["test"], num_classes=num_classes)
  return said


@jax.jit
def _of_pair(a, b):
  said = {}
  for part, (i, layer) in itertools.product(a, enumerate(LAYERS)):
    said |= {f"{part}_{layer}_{key}": value for key, value in pair_metrics(a[part][i], b[part][i]).items()}
  # The theorems are on what the loss sees, of examples trained on.
  return said | similarity_metrics(a["train"][1], b["train"][1])
