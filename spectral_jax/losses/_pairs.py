"""The records that every form of a pair sum works on: rows, how they are summed, and what came out."""

from typing import NamedTuple

import jax
import jax.numpy as jnp


class Rows(NamedTuple):
  """Rows that meet others: `x` (n, d), `group` (n,) integers, `valid` (n,) booleans.

  `norms` (n,) are their squared norms, or another number per row that the statistic adds to scores.
  """

  x: jax.Array
  norms: jax.Array
  group: jax.Array
  valid: jax.Array


class Plan(NamedTuple):
  """How a sum over pairs is computed. Static, hashable. Results depend on `statistic` and `matmul_dtype` alone.

  The loss asks with `form="auto"`; the engine settles form and tile for the number of rows.
  """

  form: str = "auto"  # "dense": one tile, differentiated by JAX; "tiled": many; "ring": tiles around a mesh axis
  tile: int | None = None  # rows of a tile
  matmul_dtype: object = None
  axis_name: str | None = None
  statistic: object = None
  columns: bool = False  # whether the columns' statistic is wanted too
  kernel: str | None = None  # what runs the kernels of `_kernel.py`; None for tiles made by XLA


class Result(NamedTuple):
  """Per row: the finished statistic and the cotangent that came back for it."""

  value: jax.Array
  cotangent: jax.Array


class Change(NamedTuple):
  """A tangent or a cotangent of `Rows`: of `x` and of `norms`."""

  x: jax.Array
  norms: jax.Array


def make_rows(x, group, valid, offset=None):
  """`Rows` of `x`; those that are not valid count for nothing. `offset`, a scalar, takes the place of squared norms."""
  # Inside shard_map all of it must vary over the same axes, since it travels together.
  norms = jnp.sum(x * x, axis=1)
  if offset is not None:
    norms = jnp.zeros_like(norms) + offset
  group = group + jnp.zeros_like(norms, dtype=group.dtype)
  return Rows(x, norms, group, valid & jnp.full_like(norms, True, dtype=bool))
