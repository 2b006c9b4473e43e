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
  where autodiff of `z z^T` takes 6 N^2 d, and keeps three N x N arrays;
- ring: inside `shard_map`, blocks of rows travel around the mesh axis and meet each device's own rows, tile by tile. What
  a travelling block gathers (its rows' statistics, its gradient) travels with it; the next block is sent while the
  present one is worked on. `within` goes half-way round and sends what was gathered home.
"""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp

from spectral_jax.losses._ring import half_ring, whole_ring
from spectral_jax.losses._tiles import (
    Plan, Result, empty_grad, empty_tally, gather, join, scatter, scores, split)

# Rows from which tiles beat the dense form, and tile sizes: measured on CPU by benchmarks/losses.py; accelerators take
# larger tiles, so that a tile's matrix products outweigh their launches.
DENSE_ROWS = {"cpu": 1024}
TILE_ROWS = {"cpu": 1024}
DENSE_ROWS_DEFAULT = 8192
TILE_ROWS_DEFAULT = 4096

ALL_ROWS = 2**31 - 1  # the tile size that asks for the dense form


class How(NamedTuple):
  """How a sum is computed; the result does not depend on it, but for the rounding to `matmul_dtype`."""

  tile_size: int | None = None
  matmul_dtype: object = None
  axis_name: str | None = None


def within(statistic, rows, how=How()):
  """The statistic of each row of `rows` over the other rows that count: `(n,)`."""
  tile = _pick_tile(rows.x.shape[0], how)
  if tile is None:
    return _dense(statistic, rows, rows)[0]
  return _reverse_only(_within, Plan(statistic, tile, how.matmul_dtype, how.axis_name), rows)


def across(statistic, rows, cols, how=How(), columns=False):
  """The statistic of each row of `rows` over those of `cols`; with `columns`, also of each of `cols` over `rows`."""
  # Without symmetry to use, tiles take more operations than the dense form: they begin to win at twice the rows.
  n = max(rows.x.shape[0], cols.x.shape[0])
  tile = _pick_tile(n, how, dense_factor=2)
  if tile is None:
    of_rows, of_cols = _dense(statistic, rows, cols)
  else:
    plan = Plan(statistic, tile, how.matmul_dtype, how.axis_name, columns)
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


def _pick_tile(n, how, dense_factor=1):
  """Rows of a tile, or None for the dense form."""
  backend = jax.default_backend()
  can_be_dense = how.axis_name is None and how.matmul_dtype is None
  tile_size = how.tile_size
  if tile_size is None:
    if can_be_dense and n <= dense_factor * DENSE_ROWS.get(backend, DENSE_ROWS_DEFAULT):
      return None
    tile_size = TILE_ROWS.get(backend, TILE_ROWS_DEFAULT)
  elif can_be_dense and tile_size >= n:
    return None
  # Equal tiles, so that little is padded: 1100 rows in tiles of at most 512 are three of 368.
  tiles = -(-n // tile_size)
  equal = -(-n // tiles)
  return min(tile_size, -(-equal // 16) * 16) if tile_size >= 16 else tile_size


def _dense(statistic, rows, cols):
  plan = Plan(statistic, None, None, None)
  score, mask = scores(plan, rows, cols)

  def total(like, axis):
    return statistic.finish(statistic.add(statistic.start(jnp.zeros_like(like)), score, mask, axis))

  return total(rows.norms, 1), total(cols.norms, 0)


def _add(a, b):
  return jax.tree.map(jnp.add, a, b)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _within(plan, rows):
  tiles = split(rows, plan.tile)
  merge = plan.statistic.merge
  empty = empty_tally(plan, tiles)

  def visit(own, block, load):
    return gather(plan, tiles, block, own, load)

  own = merge(*gather(plan, tiles, tiles, empty, empty, triangle=True))
  own = merge(*half_ring(plan.axis_name, visit, own, tiles, empty))
  return join(plan.statistic.finish(own), rows.x.shape[0])


def _within_forward(plan, rows):
  value = _within.fun(plan, rows)
  return value, (rows, value)


def _within_backward(plan, residuals, cotangent):
  rows, value = residuals
  tiles = split(rows, plan.tile)
  result = split(Result(value, cotangent), plan.tile)
  empty = empty_grad(tiles)

  def visit(own, block, load):
    cols, col_result = block
    return scatter(plan, tiles, cols, result, col_result, own, load)

  own = _add(*scatter(plan, tiles, tiles, result, result, empty, empty, triangle=True))
  own = _add(*half_ring(plan.axis_name, visit, own, (tiles, result), empty))
  return (_cotangent(own, rows),)


_within.defvjp(_within_forward, _within_backward)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _across(plan, rows, cols):
  own, block = split(rows, plan.tile), split(cols, plan.tile)

  def visit(tally, block, load):
    return gather(plan, own, block, tally, load)

  load = empty_tally(plan, block) if plan.columns else None
  row_tally, col_tally = whole_ring(plan.axis_name, visit, empty_tally(plan, own), block, load)
  finish = plan.statistic.finish
  of_rows = join(finish(row_tally), rows.x.shape[0])
  return of_rows, join(finish(col_tally), cols.x.shape[0]) if plan.columns else None


def _across_forward(plan, rows, cols):
  values = _across.fun(plan, rows, cols)
  return values, (rows, cols, values)


def _across_backward(plan, residuals, cotangents):
  rows, cols, values = residuals
  own, block = split(rows, plan.tile), split(cols, plan.tile)
  row_result = split(Result(values[0], cotangents[0]), plan.tile)
  col_result = split(Result(values[1], cotangents[1]), plan.tile) if plan.columns else None

  def visit(grad, block, load):
    cols, col_result = block
    return scatter(plan, own, cols, row_result, col_result, grad, load)

  row_grad, col_grad = whole_ring(
      plan.axis_name, visit, empty_grad(own), (block, col_result), empty_grad(block))
  return _cotangent(row_grad, rows), _cotangent(col_grad, cols)


_across.defvjp(_across_forward, _across_backward)


def _cotangent(grad, rows):
  dx, dnorms = join(grad, rows.x.shape[0])
  return rows._replace(x=dx, norms=dnorms, group=None, valid=None)
