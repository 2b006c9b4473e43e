"""What every loss does before and after its pair sums: check, mask, normalize, scale; average."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from spectral_jax import _arrays
from spectral_jax.losses._pairs import Plan

# The keywords of every loss that are not arrays.
SETTINGS = ("normalize", "reduction", "tile_size", "matmul_dtype", "axis_name")


class Views(NamedTuple):
  """Two views, ready for pair sums: `(n, d)` rows, `image` their numbers over the whole mesh axis, `valid` the mask."""

  u: jax.Array
  v: jax.Array
  image: jax.Array
  valid: jax.Array


def prepare_views(u, v, *, where, normalize, axis_name, names=("u", "v")):
  """Checks both views; masked rows become zero, so that nothing in them (NaN included) reaches the result."""
  u, v = _arrays.pair(u, v, names)
  n = u.shape[0]
  valid = _arrays.mask_of(where, n)
  u, v = (jnp.where(valid[:, None], x, 0.0) for x in (u, v))
  clean = _arrays.unit_rows if normalize else nan_rows
  u, v = clean(u), clean(v)
  return Views(u, v, row_numbers(n, axis_name), valid)


def nan_rows(x):
  """`x` with rows that hold NaN or inf all NaN: an inf alone could make exp(-inf) = 0 of a similarity, and vanish."""
  finite = jnp.isfinite(x).all(axis=1, keepdims=True)
  return x * jnp.where(finite, 1.0, jnp.nan)  # a product, so that the gradient is NaN too


def row_numbers(n, axis_name):
  """0..n-1, going on from device to device along `axis_name`."""
  numbers = jnp.arange(n, dtype=jnp.int32)
  return numbers if axis_name is None else numbers + n * lax.axis_index(axis_name)


def count_negatives(views, axis_name):
  """Rows of both views that are not of the anchor's image, over the whole mesh axis; a float, -2 for an empty batch."""
  count = views.valid.sum(dtype=views.u.dtype)
  return 2.0 * ((count if axis_name is None else lax.psum(count, axis_name)) - 1.0)


def inverse_root(temperature, dtype):
  """`1 / sqrt(tau)`: rows scaled by it have `s_ij = u_i . v_j / tau`, and the derivative by tau follows."""
  temperature = jnp.asarray(_arrays.positive("temperature", temperature))
  return lax.rsqrt(temperature.astype(dtype))


def plan_for(n, tile_size, matmul_dtype, axis_name):
  """The engine's plan for n images, checked; its form is settled by the number of rows."""
  if tile_size is not None and (isinstance(tile_size, bool) or not isinstance(tile_size, int) or tile_size < 1):
    raise ValueError(f"tile_size must be a positive integer or None (picked by size), got {tile_size!r}")
  if matmul_dtype is not None and not _is_floating(matmul_dtype):
    raise TypeError("matmul_dtype must be a floating-point dtype such as jnp.bfloat16, or None (that of the "
                    f"embeddings), got {matmul_dtype!r}")
  form = "dense" if tile_size is not None and tile_size >= n else "auto"
  return Plan(form, tile_size, None if matmul_dtype is None else jnp.dtype(matmul_dtype), axis_name)


def _is_floating(dtype):
  try:
    return jnp.issubdtype(dtype, jnp.floating)
  except TypeError:  # no dtype at all
    return False


def reduce(values, counted, reduction, axis_name):
  """Per-anchor values, 0 where not counted, or their mean over the counted ones, 0 if there are none."""
  _arrays.choice("reduction", reduction, ("mean", "none"))
  values = jnp.where(counted, values, 0.0)
  if reduction == "none":
    return values
  total, count = values.sum(), counted.sum(dtype=values.dtype)
  if axis_name is not None:
    total, count = lax.psum((total, count), axis_name)
  return total / jnp.maximum(count, 1.0)


def dot_rows(a, b):
  return jnp.sum(a * b, axis=1)
