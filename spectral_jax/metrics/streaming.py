"""CKA and RSA of rows that come in batches, or from several devices: exactly the values of all rows at once.

A `Stream` holds five pure functions, as an optimizer of optax holds two. Its state is a NamedTuple of arrays, of
`d_x^2 + d_y^2 + d_x d_y` pairs of numbers and some vectors, however many rows it has seen. What is summed, and why that
loses nothing in float32: `_moments.py`.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

from spectral_jax.metrics import _moments, _products


class Stream(NamedTuple):
  """A measure of paired rows as a fold over batches; all functions are pure and work under jit, vmap and shard_map.

  - `init(d_x, d_y, dtype=jnp.float32)`: the state that has seen no row, for widths `d_x` and `d_y`; batches are
    converted to `dtype`.
  - `update(state, x, y, where=None)`: the state with a batch of any size added: `x` `(b, d_x)`, `y` `(b, d_y)` paired
    row by row, `where` `(b,)` bool the rows that count.
  - `merge(one, other)`: the state that has seen the rows of both.
  - `psum(state, axis_name)`: inside `shard_map`, the state that has seen every device's rows, the same on each.
  - `finish(state)`: the value.
  """

  init: Callable
  update: Callable
  merge: Callable
  psum: Callable
  finish: Callable


@functools.cache
def streaming_cka(*, unbiased: bool = False) -> Stream:
  """`linear_cka` as a `Stream`: the value does not depend on how rows are divided into batches, but for rounding.

  The states of both forms are the same: one pass gives both, with `finish` of the one and of the other.

  Args:
    unbiased: as in `linear_cka`.

  Returns:
    A `Stream`. Its `finish` gives a scalar: NaN before the second row (the fourth, unbiased), and where `linear_cka` is
    NaN.

  Raises:
    TypeError, ValueError: `init` for widths that are not positive integers; `update` for arrays of a wrong type, or of
    another width than the state's, or different numbers of rows; `merge` for states of different widths.

  >>> import jax
  >>> from spectral_jax import metrics
  >>> x, y = jax.random.normal(jax.random.key(0), (2, 100, 8))
  >>> stream = metrics.streaming_cka()
  >>> state = stream.init(8, 8)
  >>> for start in range(0, 100, 30):
  ...   state = stream.update(state, x[start:start + 30], y[start:start + 30])
  >>> bool(abs(stream.finish(state) - metrics.linear_cka(x, y)) < 1e-6)
  True

  Reference: as `linear_cka`.
  """
  return _stream(False, functools.partial(_finish_cka, unbiased=bool(unbiased)))


@functools.cache
def streaming_rsa() -> Stream:
  """`rsa`, Pearson's, as a `Stream`.

  Returns, Raises: as `streaming_cka`; `finish` is NaN before the third row, and where `rsa` is NaN.

  >>> import jax
  >>> from spectral_jax import metrics
  >>> x, y = jax.random.normal(jax.random.key(0), (2, 100, 8))
  >>> stream = metrics.streaming_rsa()
  >>> halves = [stream.update(stream.init(8, 8), x[part], y[part]) for part in (slice(50), slice(50, 100))]
  >>> bool(abs(stream.finish(stream.merge(*halves)) - metrics.rsa(x, y)) < 1e-6)
  True
  """
  return _stream(True, _finish_rsa)


def _stream(unit, finish):
  return Stream(_init, functools.partial(_update, unit=unit), functools.partial(_merge, unit=unit),
                functools.partial(_psum, unit=unit), finish)


def _init(d_x, d_y, dtype=jnp.float32):
  for name, width in (("d_x", d_x), ("d_y", d_y)):
    if isinstance(width, bool) or not isinstance(width, int) or width < 1:
      raise ValueError(f"{name} must be a positive integer, the width of a representation; got {width!r}")
  if not jnp.issubdtype(dtype, jnp.floating):
    raise TypeError(f"dtype must be a floating-point dtype, got {dtype!r}; jnp.float32 is the default")
  return _empty(d_x, d_y, jnp.promote_types(dtype, jnp.float32))


def _update(state, x, y, where=None, *, unit):
  x, y, where = _products.rows_of(x, y, where, 1, "update")
  widths = tuple(r.shape[0] for r in state.reference)
  if (x.shape[1], y.shape[1]) != widths:
    raise ValueError(
        f"x and y must have the state's widths {widths}, got {x.shape} and {y.shape}; start with init(d_x, d_y) of "
        "their widths")
  dtype = state.mean[0].dtype
  return _jitted_update(state, x.astype(dtype), y.astype(dtype), where, unit=unit)


def _merge(one, other, *, unit):
  shapes = [jax.tree.map(jnp.shape, state) for state in (one, other)]
  if shapes[0] != shapes[1]:
    raise ValueError(
        "one and other must come from init of the same widths, got "
        f"{[tuple(r.shape for r in state.reference) for state in (one, other)]}")
  return _jitted_merge(one, other, unit=unit)


def _psum(state, axis_name, *, unit):
  return _moments.psum(state, axis_name, unit=unit)


_empty = jax.jit(_moments.empty, static_argnums=(0, 1, 2))
_jitted_update = jax.jit(_moments.update, static_argnames="unit")
_jitted_merge = jax.jit(_moments.merge, static_argnames="unit")


@functools.partial(jax.jit, static_argnames="unbiased")
def _finish_cka(state, *, unbiased):
  return _products.cka(_products.of_moments(state), unbiased)


@jax.jit
def _finish_rsa(state):
  return _products.pearson_rsa(_products.of_moments(state))
