"""Public functions as compiled programs, so that a second eager call with the same shapes compiles nothing.

Called outside `jax.jit`, JAX runs operation by operation, and compiles every scan again at each call. A function under
`compiled` is one program per pattern of shapes and settings instead; inside another transformation it is a call of it.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from typing import Any, ParamSpec, TypeVar

import jax

from spectral_jax._arrays import is_array

P = ParamSpec("P")
R = TypeVar("R")


def compiled(*settings: str, **checks: Callable[[str, Any], Any]) -> Callable[[Callable[P, R]], Callable[P, R]]:
  """A decorator: `jax.jit`, with the function's own errors.

  Args:
    settings: names of the arguments that are not arrays; they are compared by value, and a new value is compiled again.
    checks: for arguments by name, `check(name, value)`, called before the program is; inside the program values are
      unknown, so that the function's own checks of values are not reached.

  Returns:
    A function with the same signature. Arguments that a program cannot take (lists, settings without a hash, what is
    not an array) go to the undecorated function, which takes them or says what is wrong.

  Example:
    >>> import jax.numpy as jnp
    >>> from spectral_jax import _arrays, _eager
    >>> @_eager.compiled("power", temperature=_arrays.positive)
    ... def loss(x, *, temperature=1.0, power=2):
    ...   return jnp.sum(x ** power) / temperature
    >>> print(loss(jnp.ones(3), temperature=0.5))
    6.0
  """

  def decorate(function: Callable[P, R]) -> Callable[P, R]:
    signature = inspect.signature(function)
    program = jax.jit(function, static_argnames=settings)

    def fits(name, value):
      return _has_hash(value) if name in settings else value is None or is_array(value)

    @functools.wraps(function)
    def call(*args: P.args, **kwargs: P.kwargs) -> R:
      try:
        arguments = signature.bind(*args, **kwargs).arguments
      except TypeError:
        return function(*args, **kwargs)  # whose message names it
      for name, check in checks.items():
        if name in arguments:
          check(name, arguments[name])
      take = program if all(fits(*item) for item in arguments.items()) else function
      return take(*args, **kwargs)

    return call

  return decorate


def _has_hash(value):
  try:
    hash(value)
  except TypeError:
    return False
  return True
