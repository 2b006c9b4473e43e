"""Equal parts of a graph with few edges between them, by recursive spectral bisection.

Each group of nodes is cut in two at a fixed size along its Fiedler vector, the second eigenvector of the normalized
adjacency `S = D^{-1/2} W D^{-1/2}`, the relaxation of the balanced cut. All groups of a level are cut at once: with the
edges between groups left out, S is block diagonal, and one power iteration serves all blocks.

Reference: Pothen, Simon and Liou, "Partitioning sparse matrices with eigenvectors of graphs", 1990.
"""

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from spectral_jax._arrays import HIGHEST

# The start is already smooth over the graph; more iterations change few assignments.
_ITERATIONS = 30


def bisect(key, rows, neighbors, weights, parts):
  """Returns the nodes `(n,)` in an order whose `parts` runs of `n / parts` are the parts.

  `neighbors`, `weights` `(n, k)` describe a symmetric graph, weight 0 meaning no edge; `rows` `(n, d)` only start the
  iteration. A level costs 30 n k operations, and there are about log2(parts) levels.
  """
  n = rows.shape[0]
  if parts == 1:
    return jnp.arange(n, dtype=jnp.int32)
  levels = jnp.asarray(_levels(parts))

  def halve(level, order):
    of_place = jnp.repeat(levels[level], n // parts, total_repeat_length=n)
    group = jnp.zeros((n,), jnp.int32).at[order].set(of_place)
    value = _fiedler(jax.random.fold_in(key, level), rows, neighbors, weights, group, parts)
    return jnp.lexsort((value, group)).astype(jnp.int32)

  return lax.fori_loop(0, levels.shape[0], halve, jnp.arange(n, dtype=jnp.int32))


def _levels(parts):
  """`(levels, parts)`: the group that each part still shares at each level; c parts halve into c - c//2, c//2."""
  groups, levels = [list(range(parts))], []
  while len(groups) < parts:
    levels.append(np.repeat(np.arange(len(groups), dtype=np.int32), [len(group) for group in groups]))
    halves = [(group[:len(group) - len(group) // 2], group[len(group) - len(group) // 2:]) for group in groups]
    groups = [half for pair in halves for half in pair if half]
  return np.array(levels, np.int32).reshape(-1, parts)


def _fiedler(key, rows, neighbors, weights, group, groups):
  """`(n,)`: each group's own second eigenvector, in the coordinates of the cut; 0 for a node without edges."""
  tiny = jnp.finfo(rows.dtype).tiny
  weights = jnp.where(group[neighbors] == group[:, None], weights, 0.0)
  degree = jnp.sum(weights, axis=1)
  root = jnp.sqrt(degree)
  inverse = jnp.where(degree > 0, 1 / jnp.maximum(root, tiny), 0.0)
  scaled = weights * inverse[:, None] * inverse[neighbors]
  total = lambda x: jax.ops.segment_sum(x, group, groups)
  volume = jnp.maximum(total(degree), tiny)

  def deflate(x):
    x = x - (total(x * root) / volume)[group] * root  # D^{1/2} 1 is the first eigenvector, of eigenvalue 1
    return x / jnp.maximum(jnp.sqrt(total(x * x)), tiny)[group]

  # (1 + S)/2 has no negative eigenvalues, so that the largest in size is the largest. Neighbors point the same way: a
  # projection of the rows is smooth over the graph.
  def iterate(_, x):
    return deflate((x + jnp.sum(scaled * x[neighbors], axis=1)) / 2)

  start = jnp.dot(rows, jax.random.normal(key, (rows.shape[1],), rows.dtype), precision=HIGHEST)
  return lax.fori_loop(0, _ITERATIONS, iterate, deflate(start * root)) * inverse
