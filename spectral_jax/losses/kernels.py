"""Kernels of the squared distance `x = ||u - v||^2`, for `losses.kcl`.

Each factory returns a hashable callable that maps squared distances of any shape to similarities, largest at `x = 0`.
Any other hashable function of the squared distance, written in `jax.numpy`, serves as well.
Source of the four: Koromilas et al. 2024 (arXiv 2405.18045); their parameters are concrete numbers, not traced ones.
"""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

import jax.numpy as jnp

from spectral_jax import _arrays

if TYPE_CHECKING:
  from jaxtyping import Array, Float

  from spectral_jax._types import Kernel

__all__ = ["gaussian", "imq", "log", "riesz"]


@dataclasses.dataclass(frozen=True)
class _Gaussian:
  t: float

  def __call__(self, x: Float[Array, "..."]) -> Float[Array, "..."]:
    return jnp.exp(-self.t * x)


@dataclasses.dataclass(frozen=True)
class _Log:
  t: float

  def __call__(self, x: Float[Array, "..."]) -> Float[Array, "..."]:
    return -0.5 * jnp.log1p(self.t * x)


@dataclasses.dataclass(frozen=True)
class _InverseMultiquadric:
  c: float

  def __call__(self, x: Float[Array, "..."]) -> Float[Array, "..."]:
    return self.c / jnp.sqrt(self.c * self.c + x)


@dataclasses.dataclass(frozen=True)
class _Riesz:
  s: float

  def __call__(self, x: Float[Array, "..."]) -> Float[Array, "..."]:
    # At a coinciding pair the power or its derivative is infinite: distances stop at a few units of rounding.
    x = jnp.maximum(x, 4.0 * jnp.finfo(x.dtype).eps)
    return (1.0 if self.s > 0 else -1.0) * x ** (-self.s / 2)


def gaussian(t: float = 2.0) -> Kernel:
  """Gaussian kernel, `exp(-t x)`.

  Args:
    t: inverse squared width, > 0; 2, the potential of Wang and Isola 2020 (arXiv 2005.10242).

  Raises:
    ValueError: `t` is not a positive finite number.

  Example:
    >>> from spectral_jax.losses import kernels
    >>> print(f"{kernels.gaussian(2.0)(jnp.float32(0.5)):.4f}")
    0.3679
  """
  return _Gaussian(_parameter("t", t))


def log(t: float = 1.0) -> Kernel:
  """Logarithmic kernel, `-log(1 + t x) / 2`.

  Args:
    t: inverse squared scale, > 0.

  Raises:
    ValueError: `t` is not a positive finite number.

  Example:
    >>> from spectral_jax.losses import kernels
    >>> print(f"{kernels.log(1.0)(jnp.float32(3.0)):.4f}")
    -0.6931
  """
  return _Log(_parameter("t", t))


def imq(c: float = 1.0) -> Kernel:
  """Inverse multiquadric kernel, `c / sqrt(c^2 + x)`.

  Args:
    c: scale of the distance, > 0.

  Raises:
    ValueError: `c` is not a positive finite number.

  Example:
    >>> from spectral_jax.losses import kernels
    >>> print(f"{kernels.imq(1.0)(jnp.float32(3.0)):.4f}")
    0.5000
  """
  return _InverseMultiquadric(_parameter("c", c))


def riesz(s: float = 1.0) -> Kernel:
  """Riesz kernel, `sign(s) x^(-s/2)`, that is `sign(s) / r^s`.

  Distances are taken as at least `2 sqrt(eps)` of the dtype: at coinciding points the value is finite and the gradient
  0.

  Args:
    s: exponent, in (-2, 0) or > 0. With s > 0 the kernel is infinite at a perfect pair, so it cannot be an alignment
      kernel.

  Raises:
    ValueError: `s` is 0, at most -2, or not finite.

  Example:
    >>> from spectral_jax.losses import kernels
    >>> print(f"{kernels.riesz(-1.0)(jnp.float32(4.0)):.4f}")
    -2.0000
  """
  value = _arrays.concrete(s)
  if value is None:
    raise TypeError(f"s must be a concrete number, got {s!r}; kernels are static, build one per value outside jit")
  if not (-2 < value < 0 or 0 < value < float("inf")):
    raise ValueError(f"s must lie in (-2, 0) or above 0, got {value}; riesz(-1) is the energy distance")
  return _Riesz(value)


def _parameter(name, value):
  number = _arrays.concrete(value)
  if number is None:
    raise TypeError(f"{name} must be a concrete number, got {value!r}; kernels are static, build one per value "
                    "outside jit")
  return _arrays.positive(name, number)


def check_alignment(kernel: Kernel) -> None:
  """Refuses a kernel that is infinite where positives coincide."""
  if isinstance(kernel, _Riesz) and kernel.s > 0:
    raise ValueError(
        f"align_kernel must be finite at a perfect pair, got riesz({kernel.s:g}); pass "
        "align_kernel=kernels.gaussian(2.0)")
