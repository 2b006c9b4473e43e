"""Accuracy of k nearest neighbors by cosine similarity (Wu et al. 2018, arXiv 1805.01978, unweighted votes)."""

from __future__ import annotations

from typing import TYPE_CHECKING

import jax.numpy as jnp
import numpy as np
from jax import lax

from spectral_jax import _arrays, _eager

if TYPE_CHECKING:
  from jaxtyping import Array, ArrayLike, Float, Int

TILE_ENTRIES = 2 ** 24  # similarities alive at once: 64 MiB of float32


@_eager.compiled("k")
def knn_accuracy(train_z: Float[ArrayLike, "n d"], train_y: Int[ArrayLike, " n"], test_z: Float[ArrayLike, "m d"],
                 test_y: Int[ArrayLike, " m"], *, k: int = 20) -> Float[Array, ""]:
  """Share of test rows whose class wins the vote of their `k` nearest training rows.

  Rows are compared by cosine similarity. Ties between classes go to the class of the nearest neighbor among the
  tied; ties in similarity to the lower training index. Similarities are formed tile by tile on the device.

  Args:
    train_z: `(m, d)` training embeddings.
    train_y: `(m,)` integer classes.
    test_z: `(n, d)` test embeddings.
    test_y: `(n,)` integer classes.
    k: neighbors that vote, at least 1; more than `m` means all `m`.

  Returns:
    A float32 scalar in [0, 1]; NaN if an embedding is NaN or inf.

  Raises:
    TypeError, ValueError: embeddings or labels of a wrong type or shape, or `k < 1`.

  >>> import jax.numpy as jnp
  >>> z, y = jnp.eye(3), jnp.arange(3)
  >>> print(knn_accuracy(z, y, z + 0.1, y, k=1))
  1.0
  """
  train_z, test_z = _arrays.matrix("train_z", train_z), _arrays.matrix("test_z", test_z)
  if train_z.shape[1] != test_z.shape[1]:
    raise ValueError(
        f"train_z and test_z must have the same width, got {train_z.shape} and {test_z.shape}; "
        "compute both with the same encoder")
  if isinstance(k, bool) or not isinstance(k, (int, np.integer)):
    raise TypeError(f"k must be an integer, how many neighbors vote; got {k!r}")
  if k < 1:
    raise ValueError(f"k must be at least 1, got {k}")
  m, n = train_z.shape[0], test_z.shape[0]
  train_y = _arrays.labels_of(train_y, m, "train_y")
  test_y = _arrays.labels_of(test_y, n, "test_y")
  train_z, test_z = _arrays.unit_rows(train_z), _arrays.unit_rows(test_z)

  def hit(row):
    z, y = row
    similarity = jnp.matmul(train_z, z.astype(train_z.dtype), precision=_arrays.HIGHEST)
    neighbors = train_y[lax.top_k(similarity, min(k, m))[1]]
    votes = jnp.sum(neighbors[:, None] == neighbors[None, :], axis=1)
    return neighbors[jnp.argmax(votes)] == y  # argmax takes the first: the nearest among the tied

  hits = lax.map(hit, (test_z, test_y), batch_size=max(1, min(n, TILE_ENTRIES // m)))
  known = jnp.all(jnp.isfinite(train_z)) & jnp.all(jnp.isfinite(test_z))  # NaN has no nearest neighbors
  return jnp.where(known, jnp.mean(hits.astype(jnp.float32)), jnp.nan)
