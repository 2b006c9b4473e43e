"""Sums over pairs of rows, exact, in linear memory, on one device or around a ring of them.

`within(plan, rows)` is the statistic of every row of one array over the other rows of that array; `across` that of
the rows of one array over the rows of another, and of the other's over the first's. Which pairs count is said by
`Rows`: both valid, and their `group` different. A group per row leaves out the pair of a row with itself, a group
per image also its two views' pair, a group per class every pair within the class.

Three forms of one computation, the last two with kernels of their own for 16-bit factors on a GPU (`_kernel.py`):
- dense: one tile holds all pairs, differentiated by JAX;
- tiled: a scan over tiles of pairs. `within` is symmetric, so it visits each pair once (tiles above the diagonal) and
  uses it for both rows. The derivative is closed-form: a second scan makes each tile of similarities again, turns it
  into its slopes `D_ij` and adds `D y` and `D^T x`. With N rows this is 4 N^2 d operations for value and gradient,
  where autodiff of `z z^T` takes 6 N^2 d, and keeps three N x N arrays;
- ring: inside `shard_map`, blocks of rows travel around the mesh axis and meet each device's rows, tile by tile. What
  a traveling block gathers (its rows' statistics, its gradient) travels with it; the next block is sent while the
  present one is worked on. `within` goes half-way round and sends what was gathered home.

They know their tiles through `gather`, `push` and `scatter` alone.
"""

import functools
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jax.flatten_util import ravel_pytree

from spectral_jax.losses import _kernel
from spectral_jax.losses._kernel import gather, scatter
from spectral_jax.losses._pairs import Change, Plan, Result, Rows
from spectral_jax.losses._ring import half_ring, whole_ring
from spectral_jax.losses._tiles import add, empty_grad, empty_tally, join, push, scores, split

# Rows from which tiles beat the dense form, and tile sizes: measured on CPU by benchmarks/losses.py, on a GPU by
# benchmarks/accelerator.py; large tiles there, so that a tile's matrix products outweigh their launches.
DENSE_ROWS = {"cpu": 1024}
TILE_ROWS = {"cpu": 1024, "gpu": 8192}
DENSE_ROWS_DEFAULT = 8192
TILE_ROWS_DEFAULT = 4096


def within(statistic: Any, rows: Rows, plan: Plan = Plan()) -> Any:
  """The statistic of each row of `rows` over the other rows that count: `(n,)`."""
  plan = settle(plan, rows.x)._replace(statistic=statistic)
  return _dense(plan, rows, rows)[0] if plan.form == "dense" else _within(plan, rows)


def across(statistic: Any, rows: Rows, cols: Rows, plan: Plan = Plan(), columns: bool = False) -> Any:
  """The statistic of each row of `rows` over those of `cols`; with `columns`, also of each of `cols` over `rows`."""
  plan = settle(plan, max(rows.x, cols.x, key=len))._replace(statistic=statistic, columns=columns)
  of_rows, of_cols = (_dense if plan.form == "dense" else _across)(plan, rows, cols)
  return (of_rows, of_cols) if columns else of_rows


def settle(plan, x):
  """`plan` with the form and the tile for the rows of `x`, and with what runs the kernels, if they suit."""
  n = x.shape[0]
  backend = jax.default_backend()
  can_be_dense = plan.axis_name is None and plan.matmul_dtype is None
  if can_be_dense and (plan.form == "dense" or (
      plan.tile >= n if plan.tile else n <= DENSE_ROWS.get(backend, DENSE_ROWS_DEFAULT))):
    return plan._replace(form="dense", tile=n)
  most = n if plan.form == "dense" else plan.tile or TILE_ROWS.get(backend, TILE_ROWS_DEFAULT)
  # Equal tiles, so that little is padded: 1100 rows in tiles of at most 512 are three of 368.
  tiles = -(-n // most)
  equal = -(-n // tiles)
  tile = min(most, -(-equal // 16) * 16) if most >= 16 else most
  return plan._replace(form="tiled" if plan.axis_name is None else "ring", tile=tile,
                       kernel=plan.kernel or (None if plan.tile else _kernel.backend(plan, x)))


def _dense(plan, rows, cols):
  statistic = plan.statistic
  score, mask = scores(plan, rows, cols)

  def total(like, axis):
    return statistic.finish(statistic.add(statistic.start(jnp.zeros_like(like)), score, mask, axis))

  return total(rows.norms, 1), total(cols.norms, 0)


def _linear(push, pull, change, zeros):
  """`push(change)`, a linear map whose transpose is `pull`; `zeros` are of the shape of the result.

  JAX would transpose `push` itself, into scans that are slower and keep what they should make again. The one linear map
  whose transpose can be given, and which every transformation knows, is the solution of a linear system: `push` is a
  block of the inverse of `(c, r) -> (c, r - push(c))`. The system itself is used for second derivatives only.
  """

  # One vector: where only some parts are unknown, as when v is constant, the transpose of the system is not defined.
  vector, parts = ravel_pytree((change, zeros))

  def system(unknown):
    change, result = parts(unknown)
    return ravel_pytree((change, jax.tree.map(jnp.subtract, result, push(change))))[0]

  def solve(_, right):
    change, result = parts(right)
    return ravel_pytree((change, add(result, push(change))))[0]

  def transpose_solve(_, right):
    change, result = parts(right)
    return ravel_pytree((add(change, pull(result)), result))[0]

  return parts(lax.custom_linear_solve(system, vector, solve, transpose_solve))[1]


@functools.partial(jax.custom_jvp, nondiff_argnums=(0,))
def _within(plan, rows):
  tiles = split(rows, plan.tile)
  merge = plan.statistic.merge
  empty = empty_tally(plan, tiles)

  def visit(own, block, load):
    return gather(plan, tiles, block, own, load)

  own = merge(*gather(plan, tiles, tiles, empty, empty, triangle=True))
  own = merge(*half_ring(plan.axis_name, visit, own, tiles, empty))
  return join(plan.statistic.finish(own), rows.x.shape[0])


@_within.defjvp
def _within_jvp(plan, primals, tangents):
  (rows,), (tangent,) = primals, tangents
  n = rows.x.shape[0]
  value = _within(plan, rows)
  tiles, values = split(rows, plan.tile), split(value, plan.tile)

  def change_of_value(change):
    change = split(change, plan.tile)
    empty = jnp.zeros_like(values)

    def visit(own, block, load):
      return push(plan, tiles, block[0], values, block[1], change, block[2], own, load)

    own = add(*push(plan, tiles, tiles, values, values, change, change, empty, empty, triangle=True))
    return join(add(*half_ring(plan.axis_name, visit, own, (tiles, values, change), empty)), n)

  def gradient(cotangent):
    result = Result(values, split(cotangent, plan.tile))
    empty = empty_grad(tiles)

    def visit(own, block, load):
      return scatter(plan, tiles, block[0], result, block[1], own, load)

    own = add(*scatter(plan, tiles, tiles, result, result, empty, empty, triangle=True))
    return join(add(*half_ring(plan.axis_name, visit, own, (tiles, result), empty)), n)

  return value, _linear(change_of_value, gradient, Change(tangent.x, tangent.norms), jnp.zeros_like(value))


@functools.partial(jax.custom_jvp, nondiff_argnums=(0,))
def _across(plan, rows, cols):
  own, block = split(rows, plan.tile), split(cols, plan.tile)

  def visit(tally, block, load):
    return gather(plan, own, block, tally, load)

  load = empty_tally(plan, block) if plan.columns else None
  row_tally, col_tally = whole_ring(plan.axis_name, visit, empty_tally(plan, own), block, load)
  finish = plan.statistic.finish
  of_rows = join(finish(row_tally), rows.x.shape[0])
  return of_rows, join(finish(col_tally), cols.x.shape[0]) if plan.columns else None


@_across.defjvp
def _across_jvp(plan, primals, tangents):
  rows, cols = primals
  values = _across(plan, rows, cols)
  own, block, tiled_values = split(rows, plan.tile), split(cols, plan.tile), split(values, plan.tile)

  def unsplit(of_rows, of_cols):
    return join(of_rows, rows.x.shape[0]), join(of_cols, cols.x.shape[0])

  def change_of_values(changes):
    of_rows, of_cols = split(changes, plan.tile)
    empty = jax.tree.map(jnp.zeros_like, tiled_values)

    def visit(total, block, load):
      return push(plan, own, block[0], tiled_values[0], block[1], of_rows, block[2], total, load)

    return unsplit(*whole_ring(plan.axis_name, visit, empty[0], (block, tiled_values[1], of_cols), empty[1]))

  def gradient(cotangents):
    of_rows, of_cols = split(cotangents, plan.tile)
    row_result = Result(tiled_values[0], of_rows)
    col_result = Result(tiled_values[1], of_cols) if plan.columns else None

    def visit(grad, block, load):
      return scatter(plan, own, block[0], row_result, block[1], grad, load)

    return unsplit(*whole_ring(plan.axis_name, visit, empty_grad(own), (block, col_result), empty_grad(block)))

  changes = tuple(Change(tangent.x, tangent.norms) for tangent in tangents)
  return values, _linear(change_of_values, gradient, changes, jax.tree.map(jnp.zeros_like, values))
