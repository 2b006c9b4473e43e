"""`gather` and `scatter` as one kernel each, for matrix products in 16 bits on a GPU; the tiles of `_tiles` elsewhere.

XLA writes every tile of similarities to memory and reads it back, which takes longer than the products that make it
when their factors have 16 bits: a tenth of the matrix units' rate (docs/performance.md). Here a block of rows stays
with its program, which meets all columns, block by block, and keeps what they add up to; nothing of the size of a tile
is written. A program owns its rows, so that sums need no atomics and come out the same each time. What that costs:
every pair is met once for each side that counts, where a triangle of tiles meets it once for both.

In Pallas, by its Triton backend, and with the operations of `statistic` itself: the formulas are those of the tiles.
"""

import functools
import importlib.util
import re
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from spectral_jax.losses import _tiles
from spectral_jax.losses._pairs import Change


class Blocks(NamedTuple):
  """Rows and columns of a block, warps that work on it, and blocks of columns that are loaded ahead."""

  rows: int
  columns: int
  warps: int
  stages: int


# The fastest of eight that benchmarks/accelerator.py measures.
BLOCKS = {"gather": Blocks(128, 32, 8, 2), "scatter": Blocks(64, 64, 4, 2)}
MOST_COLUMNS = 128  # of an embedding: its blocks of rows and of their gradient fit into any card; more was not measured
PROGRAMS = 1024  # that a GPU should have to work on: where rows are few, several share their columns


def backend(plan, x):
  """What runs the kernels for `x`: "triton", or None where XLA's tiles are to be used."""
  suits = (plan.matmul_dtype is not None and jnp.dtype(plan.matmul_dtype).itemsize == 2 and x.dtype == jnp.float32
           and x.shape[1] <= MOST_COLUMNS)
  return "triton" if suits and jax.default_backend() == "gpu" and _has_triton() else None


def _has_triton():
  """Whether there is a Triton to compile for this GPU: NVIDIA's, from Ampere on, multiply both 16-bit types.

  Deprecated since JAX 0.11: a version that lacks it computes the same in tiles.
  """
  generation = re.fullmatch(r"(\d+)\.\d+", str(getattr(jax.local_devices()[0], "compute_capability", "")))
  return (generation is not None and int(generation[1]) >= 8
          and importlib.util.find_spec("jax.experimental.pallas.triton") is not None)


def gather(plan, rows, cols, row_tally, col_tally, triangle=False):
  """As `_tiles.gather`; with `triangle`, all of it comes to the rows' tally."""
  if plan.kernel is None:
    return _tiles.gather(plan, rows, cols, row_tally, col_tally, triangle)
  return _gather(plan, triangle, rows, cols, row_tally, col_tally)


def scatter(plan, rows, cols, row_result, col_result, row_grad, col_grad, triangle=False):
  """As `_tiles.scatter`; with `triangle`, all of it comes to the rows' gradient."""
  if plan.kernel is None:
    return _tiles.scatter(plan, rows, cols, row_result, col_result, row_grad, col_grad, triangle)
  return _scatter(plan, triangle, rows, cols, row_result, col_result, row_grad, col_grad)


@functools.partial(jax.custom_jvp, nondiff_argnums=(0, 1))
def _gather(plan, triangle, rows, cols, row_tally, col_tally):
  row_tally = plan.statistic.merge(row_tally, _tallies(plan, rows, cols))
  if col_tally is not None and not triangle:
    col_tally = plan.statistic.merge(col_tally, _tallies(plan, cols, rows))
  return row_tally, col_tally


@functools.partial(jax.custom_jvp, nondiff_argnums=(0, 1))
def _scatter(plan, triangle, rows, cols, row_result, col_result, row_grad, col_grad):
  row_grad = _tiles.add(row_grad, _gradient(plan, rows, cols, row_result, col_result))
  if col_grad is not None and not triangle:
    col_grad = _tiles.add(col_grad, _gradient(plan, cols, rows, col_result, row_result))
  return row_grad, col_grad


# Higher derivatives are those of the tiles, which JAX can take.


@_gather.defjvp
def _gather_jvp(plan, triangle, primals, tangents):
  return jax.jvp(functools.partial(_tiles.gather, plan, triangle=triangle), primals, tangents)


@_scatter.defjvp
def _scatter_jvp(plan, triangle, primals, tangents):
  return jax.jvp(functools.partial(_tiles.scatter, plan, triangle=triangle), primals, tangents)


def _tallies(plan, rows, cols):
  """What the pairs of `rows` and `cols` add up to for each row, tiled as the rows are."""
  statistic = plan.statistic

  def add(tally, pair, row, col):
    del row, col
    score, mask, _ = pair
    return statistic.add(tally, score, mask, 1)

  empty = lambda count: statistic.start(jnp.zeros(count, jnp.float32))
  parts = _sweep(plan, "gather", add, empty, rows, cols)
  return _tiled(functools.reduce(statistic.merge, parts), rows)


def _gradient(plan, rows, cols, row_result, col_result):
  """What the pairs of `rows` and `cols` add to the gradient of `rows`; a `Result` that is None does not depend on them.

  Both rows' statistics pass through `s_ij`, so its slope is the sum of two.
  """
  slope_of, norm_slope = plan.statistic.slope, plan.statistic.norm_slope
  d = _width(rows)

  def add(grad, pair, row, col):
    score, mask, y = pair
    slope = jnp.zeros_like(score)
    if row is not None:
      slope += slope_of(score, mask, row.value[:, None], row.cotangent[:, None])
    if col is not None:
      slope += slope_of(score, mask, col.value[None, :], col.cotangent[None, :])
    product = jnp.dot(slope.astype(y.dtype), y, preferred_element_type=jnp.float32)
    return Change(grad.x + product, grad.norms + norm_slope(slope).sum(1))

  empty = lambda count: Change(jnp.zeros((count, d), jnp.float32), jnp.zeros(count, jnp.float32))
  parts = _sweep(plan, "scatter", add, empty, rows, cols, row_result, col_result)
  total = functools.reduce(_tiles.add, parts)
  return _tiled(total._replace(x=total.x[:, :rows.x.shape[2]]), rows)


def _sweep(plan, name, add, empty, rows, cols, row_extra=None, col_extra=None):
  """Runs `sum = add(sum, (score, mask, y), row, col)` of every block of rows over all blocks of columns.

  Returns that of each part of the columns, a list: arrays of as many rows as the blocks have.
  """
  from jax.experimental import pallas as pl
  blocks = BLOCKS[name]
  own, row_count = _blocked(plan, rows, row_extra, blocks.rows)
  other, col_count = _blocked(plan, cols, col_extra, blocks.columns)
  # A power of two of parts, each of the same number of blocks.
  parts, steps = 1, col_count // blocks.columns
  while parts * (row_count // blocks.rows) < PROGRAMS and steps % 2 == 0:
    parts, steps = 2 * parts, steps // 2
  own_leaves, own_tree = jax.tree.flatten(own)
  other_leaves, other_tree = jax.tree.flatten(other)

  def kernel(*refs):
    inputs = len(own_leaves)
    row, of_row = jax.tree.unflatten(own_tree, [ref[...] for ref in refs[:inputs]])
    first = pl.program_id(1) * steps

    def visit(step, total):
      here = pl.ds((first + step) * blocks.columns, blocks.columns)
      col, of_col = jax.tree.unflatten(
          other_tree, [ref[here, ...] for ref in refs[inputs:inputs + len(other_leaves)]])
      return add(total, _meet(plan, row, col), of_row, of_col)

    nothing = empty(blocks.rows)
    total = lax.fori_loop(0, steps, visit, nothing)
    for ref, value, zero in zip(refs[-len(shapes):], jax.tree.leaves(total), jax.tree.leaves(nothing)):
      valid = row.valid if value.ndim == 1 else row.valid[:, None]
      ref[0] = jnp.where(valid != 0, value, zero).reshape(ref.shape[1:])

  def results():
    # Inside shard_map results vary over the mesh axes that the operands vary over.
    zero = sum(0 * a.sum().astype(jnp.float32) for a in (rows.x, cols.x))
    shape = lambda a: (parts, *[1] * (2 - a.ndim), *a.shape)
    return jax.tree.map(lambda a: jnp.zeros(shape(a), a.dtype) + zero, empty(row_count))

  shapes, out_tree = jax.tree.flatten(jax.eval_shape(results))
  of_rows = [pl.BlockSpec((blocks.rows, *a.shape[1:]), lambda i, p, z=(0,) * (a.ndim - 1): (i, *z)) for a in own_leaves]
  of_cols = [pl.BlockSpec(a.shape, lambda i, p, z=(0,) * a.ndim: z) for a in other_leaves]
  # A vector is a row of its own here: a TPU takes no block of one row out of several.
  of_parts = [pl.BlockSpec((1, 1, blocks.rows), lambda i, p: (p, 0, i)) if a.shape[1] == 1 else
              pl.BlockSpec((1, blocks.rows, a.shape[2]), lambda i, p: (p, i, 0)) for a in shapes]
  out = pl.pallas_call(
      kernel, grid=(row_count // blocks.rows, parts), in_specs=[*of_rows, *of_cols], out_specs=of_parts,
      out_shape=shapes, name=f"{name}_pairs", interpret=plan.kernel == "interpret",
      compiler_params=_compiler(plan, blocks))(*own_leaves, *other_leaves)
  out = [a[:, 0] if a.shape[1] == 1 else a for a in out]
  return [jax.tree.unflatten(out_tree, [a[part] for a in out]) for part in range(parts)]


def _meet(plan, row, col):
  """A block's `(score, mask, y)`; the rows' own mask is left to the end of the sweep."""
  s = lax.dot_general(row.x, col.x, (((1,), (1,)), ((), ())), preferred_element_type=jnp.float32)
  mask = (row.group[:, None] ^ col.group[None, :]) & col.valid[None, :] != 0  # one instruction for three
  return plan.statistic.score(s, row.norms[:, None], col.norms[None, :], mask), mask, col.x


def _compiler(plan, blocks):
  if plan.kernel != "triton":
    return None
  from jax.experimental.pallas import triton
  return triton.CompilerParams(num_warps=blocks.warps, num_stages=blocks.stages)


def _width(rows):
  """Columns of an embedding in the kernel: a power of two, as Triton has it, and no less than its products take."""
  return max(16, 1 << (rows.x.shape[2] - 1).bit_length())


def _blocked(plan, rows, extra, size):
  """`((rows, extra), count)` with the tiles' rows in one, and zeros up to whole blocks and to the width of the kernel.

  `x` is rounded to the factors' dtype; `valid` has all bits set or none.
  """
  n = rows.valid.size
  flat = _tiles.join((rows, extra), n)
  count = -(-n // size) * size
  rows, extra = jax.tree.map(
      lambda a: jnp.pad(a, [(0, count - n)] + [(0, _width(rows) - d) for d in a.shape[1:]]), flat)
  x, valid = rows.x.astype(plan.matmul_dtype), jnp.where(rows.valid, -1, 0).astype(rows.group.dtype)
  return (rows._replace(x=x, valid=valid), extra), count


def _tiled(tree, rows):
  """The inverse of `_blocked` for what belongs to rows: tiles again, without the padding."""
  return _tiles.split(jax.tree.map(lambda a: a[:rows.valid.size], tree), rows.valid.shape[1])
