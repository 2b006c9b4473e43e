"""Checks of the arguments that the selection rules share, and the rows they work on."""

import math

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer

from spectral_jax._arrays import as_array, choice, concrete, unit_rows

OBJECTIVES = ("max", "min", "target")


def check_bank(embeddings, batch_size, name="embeddings"):
  """Returns `embeddings` as an array; refuses a wrong shape or dtype, a batch beyond the bank, non-finite rows.

  The dtype is kept: a bfloat16 bank is converted row by row, as rows are looked at, never as a whole.
  """
  bank = as_array(name, embeddings)
  if not jnp.issubdtype(bank.dtype, jnp.floating):
    raise TypeError(f"{name} must hold floating-point numbers, got dtype {bank.dtype}; convert them with "
                    f"{name}.astype(jnp.float32)")
  if bank.ndim != 2 or 0 in bank.shape:
    raise ValueError(f"{name} must have shape (m, d) with m, d >= 1, got {bank.shape}; use jax.vmap to map over "
                     "leading axes")
  count("batch_size", batch_size)
  if batch_size > bank.shape[0]:
    raise ValueError(f"batch_size must be at most the number of embeddings, {bank.shape[0]}, got {batch_size}; embed "
                     "more examples or take a smaller batch")
  if not isinstance(bank, Tracer):
    with jax.ensure_compile_time_eval():  # a bank that a jitted function closes over is known while it is traced
      bad = np.flatnonzero(~np.asarray(_finite_rows(bank)))
    if bad.size:
      raise ValueError(f"{name} must be finite, but {bad.size} of {bank.shape[0]} rows are not, first row "
                       f"{bad[0]}; drop these rows or set them to zero (zero rows are selected last)")
  return bank


def check_key(key):
  """Refuses what is no key of `jax.random`, such as a seed."""
  dtype, shape = getattr(key, "dtype", None), np.shape(key)
  typed = dtype is not None and jnp.issubdtype(dtype, jax.dtypes.prng_key) and shape == ()
  raw = dtype == np.uint32 and len(shape) == 1  # as jax.random.PRNGKey makes them
  if not (typed or raw):
    got = repr(key) if dtype is None else f"dtype {dtype} of shape {shape}"
    raise TypeError(f"key must be one key of jax.random, got {got}; make it with jax.random.key(seed)")


@jax.jit
def _finite_rows(bank):
  return jnp.all(jnp.isfinite(bank), axis=1)


def count(name, value, least=1):
  """Returns `value` if it is a Python integer of at least `least`, or raises naming it."""
  if isinstance(value, bool) or not isinstance(value, (int, np.integer)):
    raise TypeError(f"{name} must be a Python integer, since it decides a shape; got {value!r}")
  if value < least:
    raise ValueError(f"{name} must be at least {least}, got {value}")
  return int(value)


def scalar(name, value):
  """Returns the number `value`, which may be traced, or raises naming it."""
  if jnp.ndim(value) != 0:
    raise ValueError(f"{name} must be a scalar, got shape {jnp.shape(value)}; use jax.vmap to map over several")
  number = concrete(value)
  if number is not None and not math.isfinite(number):
    raise ValueError(f"{name} must be finite, got {value}")
  return value


def check_candidates(candidates):
  """Returns the number of candidates, None for all that are left; refuses one below 1."""
  return None if candidates is None else count("candidates", candidates)


def check_objective(objective, target):
  """Refuses an unknown objective, and a target that is missing where it is needed."""
  choice("objective", objective, OBJECTIVES)
  check_target(target)
  if objective == "target" and target is None:
    raise ValueError('objective="target" needs target, a fraction in (0, 1] of the highest possible effective rank; '
                     "got None")


def check_target(target):
  """Refuses a concrete target outside (0, 1]."""
  if target is None:
    return
  if jnp.ndim(target) != 0:
    raise ValueError(f"target must be a scalar, got shape {jnp.shape(target)}; use jax.vmap to map over several")
  value = concrete(target)
  if value is not None and not 0 < value <= 1:
    raise ValueError(f"target must lie in (0, 1], a fraction of the highest possible effective rank, got {value}")


def directions(rows):
  """Unit rows in at least float32; rows that are not finite become zero."""
  rows = rows.astype(jnp.promote_types(rows.dtype, jnp.float32))
  finite = jnp.all(jnp.isfinite(rows), axis=-1, keepdims=True)
  return unit_rows(jnp.where(finite, rows, 0.0))
