"""Pairs of rows, tile by tile: what two tiles contribute to their rows' statistics, and to their gradients.

`gather`, `push` and `scatter` are the three scans that the engine is made of: the statistic of every row, its change
when rows change, and the transpose of that, the gradient. All visit tiles of pairs; none keeps one.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from spectral_jax._arrays import HIGHEST
from spectral_jax.losses._pairs import Change


def scores(plan, rows, cols):
  """A tile's `(score, mask)`, both (rows, cols)."""
  s = gram(rows.x) if rows is cols else product(plan, rows.x, cols.x.T)
  mask = (rows.group[:, None] != cols.group[None, :]) & rows.valid[:, None] & cols.valid[None, :]
  return plan.statistic.score(s, rows.norms[:, None], cols.norms[None, :], mask), mask


@jax.custom_jvp
def gram(x):
  """`x x^T`. Its derivative is `T + T^T` with one product `T`: reverse mode takes one product too, not two."""
  return jnp.dot(x, x.T, precision=HIGHEST)


@gram.defjvp
def _gram_jvp(primals, tangents):
  (x,), (dx,) = primals, tangents
  half = jnp.dot(dx, x.T, precision=HIGHEST)
  return gram(x), half + half.T


def product(plan, a, b):
  """`a @ b`, accumulated in the dtype of the embeddings, its factors rounded to `matmul_dtype` if that is given."""
  if plan.matmul_dtype is None:
    return jnp.dot(a, b, precision=HIGHEST)
  return jnp.dot(a.astype(plan.matmul_dtype), b.astype(plan.matmul_dtype), preferred_element_type=a.dtype)


# Tiled `Rows` have arrays (tiles, tile, ...); index i picks tile i of every array.


def split(tree, tile):
  """Pads the rows of every array with zeros (invalid rows) and cuts them into tiles."""

  def cut(a):
    tiles = -(-a.shape[0] // tile)
    padded = jnp.pad(a, [(0, tiles * tile - a.shape[0])] + [(0, 0)] * (a.ndim - 1))
    return padded.reshape(tiles, tile, *a.shape[1:])

  return jax.tree.map(cut, tree)


def join(tree, n):
  return jax.tree.map(lambda a: a.reshape(-1, *a.shape[2:])[:n], tree)


def add(a, b):
  return jax.tree.map(jnp.add, a, b)


# `a[i]` and `a.at[i].set` look for negative indices and for those out of range, in four times as many operations. An
# index that is a plain number is that of the only tile: see `_over_tiles`.


def _take(tree, i):
  if isinstance(i, int):
    return jax.tree.map(lambda a: lax.index_in_dim(a, i, keepdims=False), tree)
  return jax.tree.map(lambda a: lax.dynamic_index_in_dim(a, i, keepdims=False, allow_negative_indices=False), tree)


def _put(tree, i, part):
  if isinstance(i, int):
    return jax.tree.map(lambda a: a[None], part)
  return jax.tree.map(
      lambda a, b: lax.dynamic_update_index_in_dim(a, b, i, axis=0, allow_negative_indices=False), tree, part)


def _over_tiles(visit, carry, rows, cols, triangle):
  """Calls `visit(carry, (i, j))` for all pairs of tiles, or those on and above the diagonal; one needs no loop."""
  shape = rows.x.shape[0], cols.x.shape[0]
  if shape == (1, 1):
    return visit(carry, (0, 0))[0]
  i, j = np.triu_indices(shape[0]) if triangle else np.indices(shape).reshape(2, -1)
  return lax.scan(visit, carry, (jnp.asarray(i, jnp.int32), jnp.asarray(j, jnp.int32)))[0]


def _columns_count(rows, of_columns, triangle):
  """Whether the columns' statistic takes part: not where it is None, nor where the one tile is its own mirror image."""
  return of_columns is not None and not (triangle and rows.x.shape[0] == 1)


def gather(plan, rows, cols, row_tally, col_tally, triangle=False):
  """Adds all pairs of `rows` and `cols` to both sides' tallies; `col_tally=None` leaves the columns' out.

  With `triangle`, `cols` are the `rows` themselves: tiles below the diagonal are the mirror images of those above, and
  the tiles on it, which hold each pair twice, count for the rows only.
  """
  add = plan.statistic.add
  columns_count = _columns_count(rows, col_tally, triangle)

  def visit(tallies, ij):
    i, j = ij
    row_tally, col_tally = tallies
    score, mask = scores(plan, _take(rows, i), _take(cols, j))
    row_tally = _put(row_tally, i, add(_take(row_tally, i), score, mask, 1))
    if columns_count:
      col_mask = mask & (i != j) if triangle else mask
      col_tally = _put(col_tally, j, add(_take(col_tally, j), score, col_mask, 0))
    return (row_tally, col_tally), None

  return _over_tiles(visit, (row_tally, col_tally), rows, cols, triangle)


def push(plan, rows, cols, row_value, col_value, row_change, col_change, row_sum, col_sum, triangle=False):
  """Adds to `row_sum` and `col_sum` how each side's statistic changes with both sides' rows.

  Arguments as in `scatter`, whose transpose it is: `row_value` the finished statistic, `row_change` a `Change`.
  """
  slope_of, norm_slope = plan.statistic.slope, plan.statistic.norm_slope
  columns_count = _columns_count(rows, col_sum, triangle)

  @functools.partial(jax.checkpoint, prevent_cse=False)  # where JAX transposes the scan, tiles are made again, not kept
  def visit(sums, ij):
    i, j = ij
    row_sum, col_sum = sums
    row, col, of_row, of_col = _take(rows, i), _take(cols, j), _take(row_change, i), _take(col_change, j)
    score, mask = scores(plan, row, col)
    of_pair = product(plan, of_row.x, col.x.T) + product(plan, row.x, of_col.x.T)
    of_norms = of_row.norms[:, None] + of_col.norms[None, :]

    def change(value, mask, axis):
      slope = slope_of(score, mask, value, jnp.ones_like(value))
      return (slope * of_pair + norm_slope(slope) * of_norms).sum(axis)

    row_sum = _put(row_sum, i, _take(row_sum, i) + change(_take(row_value, i)[:, None], mask, 1))
    if columns_count:
      col_mask = mask & (i != j) if triangle else mask
      col_sum = _put(col_sum, j, _take(col_sum, j) + change(_take(col_value, j)[None, :], col_mask, 0))
    return (row_sum, col_sum), None

  return _over_tiles(visit, (row_sum, col_sum), rows, cols, triangle)


def scatter(plan, rows, cols, row_result, col_result, row_grad, col_grad, triangle=False):
  """Adds to `row_grad` and `col_grad`, each a `Change`, what every pair contributes to each side's rows.

  Both rows' statistics pass through `s_ij`, so its slope is the sum of two; `col_grad=None` leaves the columns'
  gradient out.
  """
  slope_of, norm_slope = plan.statistic.slope, plan.statistic.norm_slope
  columns_count = _columns_count(rows, col_result, triangle)
  # The columns' gradient is summed transposed, x^T D: on CPU, D^T x takes twice the time.
  flipped = rows.x.swapaxes(1, 2)

  def visit(grads, ij):
    i, j = ij
    row_grad, col_grad = grads
    row, col = _take(rows, i), _take(cols, j)
    score, mask = scores(plan, row, col)
    of_row = _take(row_result, i)
    slope = slope_of(score, mask, of_row.value[:, None], of_row.cotangent[:, None])
    if columns_count:
      of_col = _take(col_result, j)
      col_mask = mask & (i != j) if triangle else mask
      slope += slope_of(score, col_mask, of_col.value[None, :], of_col.cotangent[None, :])
    of_norms = norm_slope(slope)
    dx, dn = _take(row_grad, i)
    row_grad = _put(row_grad, i, Change(dx + product(plan, slope, col.x), dn + of_norms.sum(1)))
    if col_grad is not None:
      dx, dn = _take(col_grad, j)
      col_grad = _put(col_grad, j, Change(dx + product(plan, _take(flipped, i), slope), dn + of_norms.sum(0)))
    return (row_grad, col_grad), None

  col_grad = _flip(col_grad)
  row_grad, col_grad = _over_tiles(visit, (row_grad, col_grad), rows, cols, triangle)
  return row_grad, _flip(col_grad)


def _flip(grad):
  """Turns every tile of the gradient of x on its side."""
  return grad and grad._replace(x=grad.x.swapaxes(1, 2))


def empty_tally(plan, tiles):
  return plan.statistic.start(jnp.zeros_like(tiles.norms))


def empty_grad(tiles):
  return Change(jnp.zeros_like(tiles.x), jnp.zeros_like(tiles.norms))
