"""Batch mining of B3 (arXiv 2505.11293): communities of hard, but not too hard, negatives.

Each example is joined to those of rank `skip` to `skip + neighbors` among its nearest: the first are left out as likely
positives. An edge is kept where it is mutual, the graph is cut into equal communities of `cluster_size`, and a batch is
made of communities drawn at random. The authors' files use ranks 30 to 130 and communities of 32. Ours: the bank stands
for their teacher's embeddings; where it holds fewer than `skip + neighbors` others both numbers shrink in proportion;
and recursive spectral bisection cuts the graph, in place of METIS, which would be a dependency.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import jax
import jax.numpy as jnp

from spectral_jax.selection import _graph
from spectral_jax.selection._bisect import bisect

if TYPE_CHECKING:
  from jaxtyping import Array, Float, Int32, PRNGKeyArray


def b3_order(key: PRNGKeyArray, rows: Float[Array, "n d"], neighbors: int, skip: int,
             cluster_size: int) -> Int32[Array, " n"]:
  """The examples `(n,)` in an order whose runs of `cluster_size` are the communities, these in random order."""
  n = rows.shape[0]
  most = min(skip + neighbors, n - 1)
  first = skip * most // (skip + neighbors)
  indices, cosines = (table[:, first:] for table in _graph.nearest(rows, most))
  edges = _graph.mutual(indices, jnp.isfinite(cosines))
  order = bisect(key, rows, indices, edges.astype(rows.dtype), n // cluster_size)
  return jax.random.permutation(jax.random.fold_in(key, n), order.reshape(-1, cluster_size)).ravel()
