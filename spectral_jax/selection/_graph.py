"""The graph of nearest neighbors, in memory linear in the rows: a table `(n, k)` of indices, and which are edges.

An edge is mutual, each end among the other's k: the graph is undirected, and no node has more than k edges.
"""

import jax
import jax.numpy as jnp
from jax import lax

from spectral_jax._arrays import HIGHEST

# Rows looked at together: enough to keep a processor busy, and tile x n numbers at a time.
_TILE = 256


def in_tiles(of, n):
  """`of(indices)` for all of `0..n-1`, a tile of them at a time; leaves of the result have n rows."""
  tile = min(_TILE, n)
  tiles = -(-n // tile)
  which = (jnp.arange(tiles * tile, dtype=jnp.int32) % n).reshape(tiles, tile)  # the last tile is filled up
  return jax.tree.map(lambda x: x.reshape(tiles * tile, *x.shape[2:])[:n], lax.map(of, which))


def nearest(rows, count):
  """The `count` other rows of largest cosine, nearest first: indices and cosines, `(n, count)` each.

  `rows` are unit rows. Zero rows have no neighbors and are neighbors of none: their cosine is -inf. n^2 d operations.
  """
  n = rows.shape[0]
  directed = jnp.any(rows != 0, axis=1)

  def of(some):
    cosines = jnp.dot(rows[some], rows.T, precision=HIGHEST)
    usable = directed[some][:, None] & directed & (some[:, None] != jnp.arange(n))
    cosines, indices = lax.top_k(jnp.where(usable, cosines, -jnp.inf), count)
    return indices, cosines

  return in_tiles(of, n)


def mutual(indices, present):
  """`(n, k)` bool: whether entry (i, a) of a table of neighbors and the opposite one are both `present`."""
  def of(some):
    theirs = jnp.where(present[indices[some]], indices[indices[some]], -1)
    return present[some] & jnp.any(theirs == some[:, None, None], axis=2)

  return in_tiles(of, indices.shape[0])
