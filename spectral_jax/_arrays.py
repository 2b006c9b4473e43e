"""Argument checks and the few array operations that every mathematics module shares.

Checks look at shapes and dtypes, which are known under `jit`, and at values only where they are concrete.
"""

from __future__ import annotations

import functools
import math
from typing import TYPE_CHECKING, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.core import Tracer

if TYPE_CHECKING:
  from collections.abc import Iterable
  from typing import Any

  from jaxtyping import Array, Bool, Float, Int

HIGHEST = lax.Precision.HIGHEST


def is_array(x: Any) -> bool:
  """Whether `x` is an array of numbers or a number. A dtype is not, though its class has an array's attributes."""
  if isinstance(x, (np.ndarray, np.generic)):
    return x.dtype.kind not in "OSUMm"  # objects, words, dates: of NumPy's arrays those that JAX cannot take
  return isinstance(x, (jax.Array, int, float))


def as_array(name: str, x: Any) -> Array:
  """Returns `x`, an array, a number or nested lists of numbers, as a JAX array, or raises naming the argument."""
  if not is_array(x) and not isinstance(x, (list, tuple, np.ndarray, np.generic)):
    raise TypeError(f"{name} must be an array, got {x!r} of type {type(x).__name__}; convert it with jnp.asarray")
  try:
    return jnp.asarray(x)
  except (TypeError, ValueError) as error:  # words, objects, lists of different lengths
    got = f"an array of dtype {x.dtype}" if isinstance(x, (np.ndarray, np.generic)) else f"a {type(x).__name__}"
    remedy = "number the classes, e.g. with np.unique(..., return_inverse=True)" if "labels" in name else \
        "words, objects and lists of different lengths are none"
    raise type(error)(f"{name} must be an array of numbers, got {got} that JAX cannot take; {remedy}") from None


def as_float(name: str, x: Any) -> Float[Array, "..."]:
  """Returns `x` as an array of at least float32; integers and booleans are refused."""
  x = as_array(name, x)
  if not jnp.issubdtype(x.dtype, jnp.floating):
    raise TypeError(f"{name} must hold floating-point numbers, got dtype {x.dtype}; convert it with "
                    f"{name}.astype(jnp.float32)")
  return x.astype(jnp.promote_types(x.dtype, jnp.float32))


def matrix(name: str, x: Any) -> Float[Array, "n d"]:
  """Returns `x` as a float `(n, d)` array with n, d >= 1, or raises naming the argument."""
  x = as_float(name, x)
  if x.ndim != 2:
    raise ValueError(f"{name} must have shape (n, d), got {x.shape}; use jax.vmap to map over leading axes")
  if 0 in x.shape:
    raise ValueError(f"{name} must have at least one row and one column, got shape {x.shape}")
  return x


def pair(u: Any, v: Any, names: tuple[str, str] = ("u", "v")) -> tuple[Float[Array, "n d"], Float[Array, "n d"]]:
  """Returns two float `(n, d)` arrays of equal shape and dtype."""
  u, v = matrix(names[0], u), matrix(names[1], v)
  if u.shape != v.shape:
    raise ValueError(
        f"{names[0]} and {names[1]} must have the same shape, row i of {names[1]} being the positive of row i of "
        f"{names[0]}; got {u.shape} and {v.shape}")
  dtype = jnp.promote_types(u.dtype, v.dtype)
  return u.astype(dtype), v.astype(dtype)


def labels_of(labels: Any, n: int, name: str = "labels") -> Int[Array, " n"]:
  """Returns `labels` as an `(n,)` integer array, or raises naming the argument."""
  labels = as_array(name, labels)
  if not jnp.issubdtype(labels.dtype, jnp.integer):
    raise TypeError(f"{name} must be integers, got dtype {labels.dtype}; number the classes, e.g. with np.unique(..., "
                    "return_inverse=True)")
  if labels.shape != (n,):
    raise ValueError(f"{name} must have shape ({n},), one per row of the embeddings, got {labels.shape}")
  return labels


def mask_of(where: Any, n: int, name: str = "where") -> Bool[Array, " n"]:
  """Returns `where` as an `(n,)` boolean array; None means all rows."""
  if where is None:
    return jnp.ones((n,), bool)
  where = as_array(name, where)
  if where.dtype != jnp.bool_:
    raise TypeError(f"{name} must be boolean, got dtype {where.dtype}; compare it, e.g. {name} > 0")
  if where.shape != (n,):
    raise ValueError(f"{name} must have shape ({n},), one per row, got {where.shape}")
  return where


def concrete(x: Any) -> float | None:
  """The Python number `x` stands for, or None while it is traced or not a scalar."""
  if isinstance(x, Tracer):
    return None
  try:
    return float(x)
  except TypeError:
    return None


def _scalar(name, x):
  if not is_array(x):
    raise TypeError(f"{name} must be a number, got {x!r} of type {type(x).__name__}")
  if jnp.ndim(x) != 0:
    raise ValueError(f"{name} must be a scalar, got shape {jnp.shape(x)}; use jax.vmap to map over several")
  return x


def positive(name: str, x: Any) -> Any:
  """Returns the scalar `x`; raises if it is concrete and not a positive finite number, or not a scalar."""
  value = concrete(_scalar(name, x))
  if value is not None and not (value > 0 and math.isfinite(value)):
    raise ValueError(f"{name} must be a positive finite number, got {value}")
  return x


def positive_or_none(name: str, x: Any) -> Any:
  """`positive`, but None is returned as it is."""
  return x if x is None else positive(name, x)


def number(name: str, x: Any, low: float = -math.inf, high: float = math.inf) -> Any:
  """Returns the scalar `x`; raises if it is not a scalar, or is concrete and not a finite number in [low, high)."""
  value = concrete(_scalar(name, x))
  if value is not None and not (low <= value < high and math.isfinite(value)):
    raise ValueError(f"{name} must be a finite number in [{low:g}, {high:g}), got {value}")
  return x


def choice(name: str, value: Any, allowed: Iterable[Any]) -> Any:
  """Returns `value` if it is one of `allowed`, or raises listing them."""
  if value not in allowed:
    raise ValueError(f"{name} must be one of {', '.join(map(repr, allowed))}; got {value!r}")
  return value


def unit_rows(x: Float[Array, "n d"]) -> Float[Array, "n d"]:
  """L2-normalizes rows: `x_i / ||x_i||`. A zero row stays zero, with a zero gradient; one with NaN or inf becomes NaN.

  Rows are first divided by a power of two near their largest entry: the result and its derivative do not depend on the
  scale, and squares neither overflow nor vanish, from the largest finite number down to half the smallest normal one
  (float32: 6e-39). Rows below that count as zero: the derivative, 1 / ||x_i||, would overflow.
  """
  return _unit_rows(jnp.asarray(x))


@functools.partial(jax.jit, inline=True)  # an eager call is one program, not forty
def _unit_rows(x):
  zero = _float_parts(x).largest < 2 ** (jnp.finfo(x.dtype).nmant - 1)
  scaled = jnp.where(zero, 1.0, _scale_rows(x))
  unit = scaled / jnp.sqrt(jnp.sum(scaled * scaled, axis=-1, keepdims=True))
  return jnp.where(zero, 0.0, unit)


class _FloatParts(NamedTuple):
  bits: jax.Array      # of |x|: the integers behind non-negative floats have the same order, inf and NaN above the rest
  largest: jax.Array   # of each row's bits
  exponent: jax.Array  # as stored, of each row's largest entry, kept off both ends


def _float_parts(x):
  info = jnp.finfo(x.dtype)
  integer = jnp.dtype(f"int{info.bits}")
  bits = lax.bitcast_convert_type(x, integer) & jnp.iinfo(integer).max
  largest = jnp.max(bits, axis=-1, keepdims=True)
  return _FloatParts(bits, largest, jnp.clip(largest >> info.nmant, 1, 2 ** info.nexp - 3))


def _power_of_two(exponent, dtype):
  """`2^exponent` for integers in the range of normal numbers; assembled, since `exp2` is inexact."""
  info = jnp.finfo(dtype)
  return lax.bitcast_convert_type((exponent - info.minexp + 1) << info.nmant, dtype)


@jax.custom_jvp
def _scale_rows(x):
  """`x_i 2^-e_i`, its largest entry in [1/2, 4); NaN where a row holds NaN or inf.

  Numbers are taken apart as integers: processors that flush subnormal numbers to zero lose none of a tiny row here.
  """
  info, parts = jnp.finfo(x.dtype), _float_parts(x)
  own = parts.bits >> info.nmant
  mantissa = (parts.bits & (2 ** info.nmant - 1)) | ((own > 0).astype(own.dtype) << info.nmant)
  shift = jnp.maximum(jnp.maximum(own, 1) - parts.exponent - info.nmant, info.minexp)
  scaled = jnp.where(jnp.signbit(x), -1, 1) * mantissa.astype(x.dtype) * _power_of_two(shift, x.dtype)
  not_finite = parts.largest >> info.nmant == 2 ** info.nexp - 1
  return jnp.where(not_finite, jnp.nan, scaled)


@_scale_rows.defjvp
def _scale_rows_jvp(primals, tangents):
  (x,), (dx,) = primals, tangents
  return _scale_rows(x), dx * _power_of_two(1 - jnp.finfo(x.dtype).minexp - _float_parts(x).exponent, x.dtype)
