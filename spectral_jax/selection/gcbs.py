"""Global contrastive batch sampling (arXiv 2210.12874): runs of an order of small bandwidth.

The similarity matrix is thresholded at a high quantile and its rows are put in reverse Cuthill-McKee order, which
brings its entries near the diagonal: similar examples then fall into one batch. The paper states O(n^2) time and O(nk)
space. Ours, where its text could not be read: the quantile is the one that leaves `neighbors` entries a row on average,
16; a row keeps at most twice as many, and an entry stays where both its rows keep it; ties are broken at random.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import jax.numpy as jnp
from jax import lax

from spectral_jax.selection import _graph

if TYPE_CHECKING:
  from jaxtyping import Array, Bool, Float, Int32


def gcbs_order(rows: Float[Array, "n d"], neighbors: int) -> Int32[Array, " n"]:
  """The examples `(n,)` in reverse Cuthill-McKee order of their thresholded similarities."""
  n = rows.shape[0]
  most = min(2 * neighbors, n - 1)
  indices, cosines = _graph.nearest(rows, most)
  threshold = -jnp.sort(-cosines.ravel())[n * min(neighbors, most) - 1]
  edges = _graph.mutual(indices, (cosines >= threshold) & jnp.isfinite(cosines))
  return cuthill_mckee(indices, edges)[::-1]


def cuthill_mckee(neighbors: Int32[Array, "n k"], edges: Bool[Array, "n k"]) -> Int32[Array, " n"]:
  """The nodes `(n,)` in Cuthill-McKee order: breadth first, neighbors by rising degree, from a node of least degree.

  `neighbors` `(n, k)` names them and `edges` `(n, k)` says which are edges, of an undirected graph. Each component is
  begun at a node of least degree among those left. n steps of k operations, one after the other.
  """
  n, k = neighbors.shape
  degree = jnp.sum(edges, axis=1, dtype=jnp.int32)
  rising = jnp.argsort(jnp.where(edges, degree[neighbors], k + 1), axis=1, stable=True)
  neighbors, edges = (jnp.take_along_axis(table, rising, axis=1) for table in (neighbors, edges))
  by_degree = jnp.argsort(degree, stable=True).astype(jnp.int32)

  def visit(head, carry):
    order, placed, tail, start = carry
    empty = head == tail
    start = lax.while_loop(lambda s: empty & placed[by_degree[s]], lambda s: s + 1, start)
    root = by_degree[start]
    order = order.at[jnp.where(empty, tail, n)].set(root, mode="drop")
    placed = placed.at[jnp.where(empty, root, n)].set(True, mode="drop")
    tail = tail + empty
    around = neighbors[order[head]]
    new = edges[order[head]] & ~placed[around]
    order = order.at[jnp.where(new, tail + jnp.cumsum(new, dtype=jnp.int32) - 1, n)].set(around, mode="drop")
    placed = placed.at[jnp.where(new, around, n)].set(True, mode="drop")
    return order, placed, tail + jnp.sum(new, dtype=jnp.int32), start

  zero = jnp.zeros((), jnp.int32)
  start = (jnp.zeros((n,), jnp.int32), jnp.zeros((n,), bool), zero, zero)
  return lax.fori_loop(0, n, visit, start)[0]
