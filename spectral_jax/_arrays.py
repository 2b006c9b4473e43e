"""Argument checks and the few array operations that every mathematics module shares.

Checks look at shapes and dtypes, which are known under `jit`, and at values only where they are concrete.
"""

import math

import jax
import jax.numpy as jnp
from jax import lax

HIGHEST = lax.Precision.HIGHEST


def as_float(name, x):
  """Returns `x` as an array of at least float32; integers and booleans are refused."""
  x = jnp.asarray(x)
  if not jnp.issubdtype(x.dtype, jnp.floating):
    raise TypeError(f"{name} must hold floating-point numbers, got dtype {x.dtype}; convert it with {name}.astype(jnp.float32)")
  return x.astype(jnp.promote_types(x.dtype, jnp.float32))


def matrix(name, x):
  """Returns `x` as a float `(n, d)` array with n, d >= 1, or raises naming the argument."""
  x = as_float(name, x)
  if x.ndim != 2:
    raise ValueError(f"{name} must have shape (n, d), got {x.shape}; use jax.vmap to map over leading axes")
  if 0 in x.shape:
    raise ValueError(f"{name} must have at least one row and one column, got shape {x.shape}")
  return x


def pair(u, v, names=("u", "v")):
  """Returns two float `(n, d)` arrays of equal shape and dtype."""
  u, v = matrix(names[0], u), matrix(names[1], v)
  if u.shape != v.shape:
    raise ValueError(
        f"{names[0]} and {names[1]} must have the same shape, row i of {names[1]} being the positive of row i of "
        f"{names[0]}; got {u.shape} and {v.shape}")
  dtype = jnp.promote_types(u.dtype, v.dtype)
  return u.astype(dtype), v.astype(dtype)


def labels_of(labels, n, name="labels"):
  """Returns `labels` as an `(n,)` integer array, or raises naming the argument."""
  labels = jnp.asarray(labels)
  if not jnp.issubdtype(labels.dtype, jnp.integer):
    raise TypeError(f"{name} must be integers, got dtype {labels.dtype}; number the classes, e.g. with np.unique(..., return_inverse=True)")
  if labels.shape != (n,):
    raise ValueError(f"{name} must have shape ({n},), one per row of the embeddings, got {labels.shape}")
  return labels


def mask_of(where, n, name="where"):
  """Returns `where` as an `(n,)` boolean array; None means all rows."""
  if where is None:
    return jnp.ones((n,), bool)
  where = jnp.asarray(where)
  if where.dtype != jnp.bool_:
    raise TypeError(f"{name} must be boolean, got dtype {where.dtype}; compare it, e.g. {name} > 0")
  if where.shape != (n,):
    raise ValueError(f"{name} must have shape ({n},), one per row, got {where.shape}")
  return where


def concrete(x):
  """The Python number `x` stands for, or None while it is traced or not a scalar."""
  if isinstance(x, jax.core.Tracer):
    return None
  try:
    return float(x)
  except TypeError:
    return None


def positive(name, x):
  """Returns the scalar `x`; raises if it is concrete and not a positive finite number, or not a scalar."""
  if jnp.ndim(x) != 0:
    raise ValueError(f"{name} must be a scalar, got shape {jnp.shape(x)}; use jax.vmap to map over several")
  value = concrete(x)
  if value is not None and not (value > 0 and math.isfinite(value)):
    raise ValueError(f"{name} must be a positive finite number, got {value}")
  return x


def choice(name, value, allowed):
  """Returns `value` if it is one of `allowed`, or raises listing them."""
  if value not in allowed:
    raise ValueError(f"{name} must be one of {', '.join(map(repr, allowed))}; got {value!r}")
  return value


def unit_rows(x):
  """L2-normalises rows: `x_i / ||x_i||`. A zero row stays zero and has a zero gradient.

  Rows are first divided by their largest entry, held constant: the result and its derivative do not
  depend on the scale, and squares neither overflow nor vanish (rows of 1e30 or 1e-30 in float32).
  """
  largest = lax.stop_gradient(jnp.max(jnp.abs(x), axis=-1, keepdims=True))
  nonzero = largest > 0
  scaled = jnp.where(nonzero, x, 1.0) / jnp.where(nonzero, largest, 1.0)
  unit = scaled / jnp.sqrt(jnp.sum(scaled * scaled, axis=-1, keepdims=True))
  return jnp.where(nonzero, unit, 0.0)
