"""Sums over pairs of rows, exact, in linear memory, on one device or around a ring of them.

`within(statistic, side)` is the statistic of every row of one array over the other rows of that array; `across` that of
the rows of one array over the rows of another, and of the other's over the first's. Which pairs count is said by
`Side`: both rows valid, and their `group` different. A group per row leaves out the pair of a row with itself, a group
per image also its two views' pair, a group per class every pair within the class.

Three forms of one computation:
- dense: one tile holds all pairs, differentiated by JAX (any order, forward or reverse);
- tiled: a scan over tiles of pairs. `within` is symmetric, so it visits each pair once (tiles above the diagonal) and
  uses it for both rows. The derivative is closed-form: a second scan makes each tile of similarities again, turns it
  into its slopes `D_ij` and adds `D y` and `D^T x`. With N rows this is 4 N^2 d operations for value and gradient,
  where dense autodiff takes 6 N^2 d and three N x N arrays;
- ring: inside `shard_map`, blocks of rows travel around the mesh axis and meet each device's own rows, tile by tile. What
  a travelling block gathers (its rows' statistics, its gradient) travels with it; the next block is sent while the
  present one is worked on. `within` goes half-way round and sends what was gathered home.
"""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from spectral_jax._arrays import HIGHEST

# Rows from which tiles beat the dense form, and tile sizes: measured on CPU by benchmarks/losses.py; accelerators take
# larger tiles, so that a tile's matrix products outweigh their launches.
DENSE_ROWS = {"cpu": 512}
TILE_ROWS = {"cpu": 512}
DENSE_ROWS_DEFAULT = 8192
TILE_ROWS_DEFAULT = 4096


class Side(NamedTuple):
  """Rows that meet others: `x` (n, d), their squared `norms` (n,), `group` (n,) integers, `valid` (n,) booleans."""

  x: jax.Array
  norms: jax.Array
  group: jax.Array
  valid: jax.Array


class _Plan(NamedTuple):
  """What is static about a sum: hashable, so that it can be a static argument of the custom derivative."""

  statistic: object
  tile: int
  matmul_dtype: object
  axis_name: object
  columns: bool = False


ALL_ROWS = 2**31 - 1  # the tile size that asks for the dense form


class How(NamedTuple):
  """How a sum is computed; the result does not depend on it, but for the rounding to `matmul_dtype`."""

  tile_size: int | None = None
  matmul_dtype: object = None
  axis_name: str | None = None


def side(x, group, valid):
  """A `Side` of the rows of `x`; rows that are not valid count for nothing."""
  # Inside shard_map all of it must vary over the same axes, since it travels together.
  norms = jnp.sum(x * x, axis=1)
  group = group + jnp.zeros_like(norms, dtype=group.dtype)
  return Side(x, norms, group, valid & jnp.full_like(norms, True, dtype=bool))


def within(statistic, rows, how=How()):
  """The statistic of each row of `rows` over the other rows that count: `(n,)`."""
  tile = _pick_tile(rows.x.shape[0], how)
  if tile is None:
    return _dense(statistic, rows, rows)[0]
  return _reverse_only(_within, _Plan(statistic, tile, how.matmul_dtype, how.axis_name), rows)


def across(statistic, rows, cols, how=How(), columns=False):
  """The statistic of each row of `rows` over those of `cols`; with `columns`, also of each of `cols` over `rows`."""
  tile = _pick_tile(max(rows.x.shape[0], cols.x.shape[0]), how)
  if tile is None:
    of_rows, of_cols = _dense(statistic, rows, cols)
  else:
    plan = _Plan(statistic, tile, how.matmul_dtype, how.axis_name, columns)
    of_rows, of_cols = _reverse_only(_across, plan, rows, cols)
  return (of_rows, of_cols) if columns else of_rows


def _reverse_only(function, *arguments):
  try:
    return function(*arguments)
  except TypeError as error:
    if "forward-mode" not in str(error):
      raise
    raise TypeError(
        "forward-mode derivatives (jvp, jacfwd, linearize of this loss) do not pass through tiles or a ring; take the dense "
        "form, tile_size=n, or reverse mode (grad, and jvp of grad)") from error


def _pick_tile(n, how):
  """Rows of a tile, or None for the dense form."""
  backend = jax.default_backend()
  can_be_dense = how.axis_name is None and how.matmul_dtype is None
  tile_size = how.tile_size
  if tile_size is None:
    if can_be_dense and n <= DENSE_ROWS.get(backend, DENSE_ROWS_DEFAULT):
      return None
    tile_size = TILE_ROWS.get(backend, TILE_ROWS_DEFAULT)
  elif can_be_dense and tile_size >= n:
    return None
  # Equal tiles, so that little is padded: 1100 rows in tiles of at most 512 are three of 368.
  tiles = -(-n // tile_size)
  equal = -(-n // tiles)
  return min(tile_size, -(-equal // 16) * 16) if tile_size >= 16 else tile_size


def _scores(plan, rows, cols):
  """A tile's `(score, mask)`, both (rows, cols)."""
  x, y = rows.x, cols.x
  s = _product(plan, x, y.T)
  mask = (rows.group[:, None] != cols.group[None, :]) & rows.valid[:, None] & cols.valid[None, :]
  return plan.statistic.score(s, rows.norms[:, None], cols.norms[None, :], mask), mask


def _product(plan, a, b):
  """`a @ b`, accumulated in the dtype of the embeddings, its factors rounded to `matmul_dtype` if that is given."""
  if plan.matmul_dtype is None:
    return jnp.dot(a, b, precision=HIGHEST)
  return jnp.dot(a.astype(plan.matmul_dtype), b.astype(plan.matmul_dtype), preferred_element_type=a.dtype)


def _dense(statistic, rows, cols):
  plan = _Plan(statistic, None, None, None)
  score, mask = _scores(plan, rows, cols)

  def total(like, axis):
    return statistic.finish(statistic.add(statistic.start(jnp.zeros_like(like)), score, mask, axis))

  return total(rows.norms, 1), total(cols.norms, 0)


# Tiles: a `Side` whose arrays are (tiles, tile, ...); index i picks tile i of every array.


def _split(tree, tile):
  """Pads the rows of every array with zeros (invalid rows) and cuts them into tiles."""

  def cut(a):
    tiles = -(-a.shape[0] // tile)
    padded = jnp.pad(a, [(0, tiles * tile - a.shape[0])] + [(0, 0)] * (a.ndim - 1))
    return padded.reshape(tiles, tile, *a.shape[1:])

  return jax.tree.map(cut, tree)


def _join(tree, n):
  return jax.tree.map(lambda a: a.reshape(-1, *a.shape[2:])[:n], tree)


def _take(tree, i):
  return jax.tree.map(lambda a: a[i], tree)


def _put(tree, i, part):
  return jax.tree.map(lambda a, b: a.at[i].set(b), tree, part)


def _tile_pairs(rows, cols, triangle):
  """Indices (i, j) of the tiles to visit: all, or those on and above the diagonal."""
  shape = rows.x.shape[0], cols.x.shape[0]
  i, j = np.triu_indices(shape[0]) if triangle else np.indices(shape).reshape(2, -1)
  return jnp.asarray(i, jnp.int32), jnp.asarray(j, jnp.int32)


def _gather(plan, rows, cols, row_tally, col_tally, triangle=False):
  """Adds all pairs of `rows` and `cols` to both sides' tallies; `col_tally=None` leaves the columns' out.

  With `triangle`, `cols` are the `rows` themselves: tiles below the diagonal are the mirror images of those above, and
  the tiles on it, which hold each pair twice, count for the rows only.
  """
  add = plan.statistic.add

  def visit(tallies, ij):
    i, j = ij
    row_tally, col_tally = tallies
    score, mask = _scores(plan, _take(rows, i), _take(cols, j))
    row_tally = _put(row_tally, i, add(_take(row_tally, i), score, mask, 1))
    if col_tally is not None:
      col_mask = mask & (i != j) if triangle else mask
      col_tally = _put(col_tally, j, add(_take(col_tally, j), score, col_mask, 0))
    return (row_tally, col_tally), None

  return lax.scan(visit, (row_tally, col_tally), _tile_pairs(rows, cols, triangle))[0]


class _Result(NamedTuple):
  """Per row: the finished statistic and the cotangent that came back for it."""

  value: jax.Array
  cotangent: jax.Array


def _scatter(plan, rows, cols, row_result, col_result, row_grad, col_grad, triangle=False):
  """Adds to `row_grad` and `col_grad`, pairs (gradient of x, of norms), what every pair contributes to each side's rows.

  Both rows' statistics pass through `s_ij`, so its slope is the sum of two; `col_grad=None` leaves the columns' gradient out.
  """
  slope_of, norm_slope = plan.statistic.slope, plan.statistic.norm_slope

  def visit(grads, ij):
    i, j = ij
    row_grad, col_grad = grads
    row, col = _take(rows, i), _take(cols, j)
    score, mask = _scores(plan, row, col)
    of_row, of_col = _take(row_result, i), _take(col_result, j)  # of_col is None where columns have no statistic
    col_mask = mask & (i != j) if triangle else mask
    slope = slope_of(score, mask, of_row.value[:, None], of_row.cotangent[:, None])
    if of_col is not None:
      slope += slope_of(score, col_mask, of_col.value[None, :], of_col.cotangent[None, :])
    of_norms = norm_slope(slope)
    dx, dn = _take(row_grad, i)
    row_grad = _put(row_grad, i, (dx + _product(plan, slope, col.x), dn + of_norms.sum(1)))
    if col_grad is not None:
      dx, dn = _take(col_grad, j)
      col_grad = _put(col_grad, j, (dx + _product(plan, slope.T, row.x), dn + of_norms.sum(0)))
    return (row_grad, col_grad), None

  return lax.scan(visit, (row_grad, col_grad), _tile_pairs(rows, cols, triangle))[0]


# The ring. `own` stays on its device, `block` travels and `load` is what the block gathers on its way.


def _shift(tree, axis_name, by):
  if axis_name is None:
    return tree
  size = lax.axis_size(axis_name)
  return lax.ppermute(tree, axis_name, [(r, (r + by) % size) for r in range(size)])


def _whole_ring(axis_name, visit, own, block, load):
  """Every block visits every device, beginning with its own, and is home again at the end."""
  if axis_name is None:
    return visit(own, block, load)

  def hop(carry, _):
    own, block, load = carry
    following = _shift(block, axis_name, 1)  # does not wait for the visit: the transfer overlaps it
    own, load = visit(own, block, load)
    return (own, following, _shift(load, axis_name, 1)), None

  (own, _, load), _ = lax.scan(hop, (own, block, load), length=lax.axis_size(axis_name))
  return own, load


def _half_ring(axis_name, visit, own, block, load):
  """Every two devices' blocks meet once: each block visits half of the others, then its load goes home.

  With an even number of devices, opposite ones meet twice: each then works for its own rows alone (`load` is None).
  """
  size = 1 if axis_name is None else lax.axis_size(axis_name)
  if size == 1:
    return own, load
  hops = (size - 1) // 2

  def hop(carry, _):
    own, block, load = carry
    following = _shift(block, axis_name, 1)
    own, load = visit(own, block, load)
    return (own, following, _shift(load, axis_name, 1)), None

  (own, block, load), _ = lax.scan(hop, (own, _shift(block, axis_name, 1), load), length=hops)
  if size % 2 == 0:
    own, _ = visit(own, block, None)
  return own, _shift(load, axis_name, -hops - 1)


def _empty_tally(plan, tiles):
  return plan.statistic.start(jnp.zeros_like(tiles.norms))


def _empty_grad(tiles):
  return jnp.zeros_like(tiles.x), jnp.zeros_like(tiles.norms)


def _add(a, b):
  return jax.tree.map(jnp.add, a, b)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _within(plan, rows):
  tiles = _split(rows, plan.tile)
  merge = plan.statistic.merge
  empty = _empty_tally(plan, tiles)

  def visit(own, block, load):
    return _gather(plan, tiles, block, own, load)

  own = merge(*_gather(plan, tiles, tiles, empty, empty, triangle=True))
  own = merge(*_half_ring(plan.axis_name, visit, own, tiles, empty))
  return _join(plan.statistic.finish(own), rows.x.shape[0])


def _within_forward(plan, rows):
  value = _within.fun(plan, rows)
  return value, (rows, value)


def _within_backward(plan, residuals, cotangent):
  rows, value = residuals
  tiles = _split(rows, plan.tile)
  result = _split(_Result(value, cotangent), plan.tile)
  empty = _empty_grad(tiles)

  def visit(own, block, load):
    cols, col_result = block
    return _scatter(plan, tiles, cols, result, col_result, own, load)

  own = _add(*_scatter(plan, tiles, tiles, result, result, empty, empty, triangle=True))
  own = _add(*_half_ring(plan.axis_name, visit, own, (tiles, result), empty))
  return (_cotangent(own, rows),)


_within.defvjp(_within_forward, _within_backward)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _across(plan, rows, cols):
  own, block = _split(rows, plan.tile), _split(cols, plan.tile)

  def visit(tally, block, load):
    return _gather(plan, own, block, tally, load)

  load = _empty_tally(plan, block) if plan.columns else None
  row_tally, col_tally = _whole_ring(plan.axis_name, visit, _empty_tally(plan, own), block, load)
  finish = plan.statistic.finish
  of_rows = _join(finish(row_tally), rows.x.shape[0])
  return of_rows, _join(finish(col_tally), cols.x.shape[0]) if plan.columns else None


def _across_forward(plan, rows, cols):
  values = _across.fun(plan, rows, cols)
  return values, (rows, cols, values)


def _across_backward(plan, residuals, cotangents):
  rows, cols, values = residuals
  own, block = _split(rows, plan.tile), _split(cols, plan.tile)
  row_result = _split(_Result(values[0], cotangents[0]), plan.tile)
  col_result = _split(_Result(values[1], cotangents[1]), plan.tile) if plan.columns else None

  def visit(grad, block, load):
    cols, col_result = block
    return _scatter(plan, own, cols, row_result, col_result, grad, load)

  row_grad, col_grad = _whole_ring(
      plan.axis_name, visit, _empty_grad(own), (block, col_result), _empty_grad(block))
  return _cotangent(row_grad, rows), _cotangent(col_grad, cols)


_across.defvjp(_across_forward, _across_backward)


def _cotangent(grad, rows):
  dx, dnorms = _join(grad, rows.x.shape[0])
  return Side(dx, dnorms, None, None)
