"""Spectral clustering into batches of high loss (arXiv 2307.05906).

The paper bounds the loss of a batch of B from below by the weights of a graph on its pairs. With one embedding for
each example they are

    w_ij = log(1 + (B - 1) exp((x_i . x_j - 1) / temperature)),

and cuts that graph into equal clusters: the batches. Its authors' program clusters random superbatches of several
batches each, as this one does. Ours: equal parts by recursive bisection, in place of k-means on the eigenvectors with a
repair of the sizes; and only mutual nearest neighbors are edges, so that memory is linear.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import jax.numpy as jnp

from spectral_jax.selection import _graph
from spectral_jax.selection._bisect import bisect

if TYPE_CHECKING:
  from jaxtyping import Array, Float, Int32, PRNGKeyArray

  from spectral_jax._types import Scalar


def split_spectral(key: PRNGKeyArray, rows: Float[Array, "n d"], batches: int, *, neighbors: int,
                   temperature: Scalar) -> Int32[Array, "batches b"]:
  """Splits `(batches * size, d)` unit rows into batches of similar rows; `(batches, size)` indices."""
  n = rows.shape[0]
  size = n // batches
  indices, cosines = _graph.nearest(rows, min(neighbors, n - 1))
  edges = _graph.mutual(indices, jnp.isfinite(cosines))
  weights = jnp.where(edges, jnp.log1p((size - 1) * jnp.exp((cosines - 1) / temperature)), 0.0)
  return bisect(key, rows, indices, weights, batches).reshape(batches, size)
