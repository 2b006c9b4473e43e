"""The losses' exact values at their common minimizer, the aligned simplex."""

from __future__ import annotations

from typing import TYPE_CHECKING

import jax.numpy as jnp

from spectral_jax import _arrays
from spectral_jax._defaults import temperature_of

if TYPE_CHECKING:
  from typing import Literal

  from jaxtyping import Array, Float

  from spectral_jax._types import Kernel, Scalar

LOSSES = ("info_nce", "nt_xent", "dcl", "dhel", "kcl")


def optimum(loss: str, n: int, d: int, *, temperature: Scalar | None = None,
            energy: Literal["anchor", "mean", "sum"] = "mean", t: Scalar = 2.0, gamma: Scalar = 16.0,
            kernel: Kernel | None = None, align_kernel: Kernel | None = None) -> Float[Array, ""]:
  """The loss at the aligned simplex: `u_i = v_i`, `u_i.u_j = -1/(n-1)`, where all these losses are least.

  With `q = n/((n-1) tau)`: InfoNCE `log(1 + (n-1) e^-q)`; NT-Xent `log(1 + 2(n-1) e^-q)`; DCL `log(2(n-1)) - q`; DHEL
  `log(n-1) - q` (`energy` anchor or mean) and `2 log(n-1) - (n+1)/((n-1) tau)` (sum); KCL
  `-2 k_A(0) + 2 gamma k(2n/(n-1))`, the kernels being functions of the squared distance.

  Args:
    loss: `"info_nce"`, `"nt_xent"`, `"dcl"`, `"dhel"` or `"kcl"`.
    n: rows of a batch, `2 <= n <= d + 1`.
    d: dimension.
    temperature: tau > 0; None takes the loss's own default. KCL has none.
    energy: DHEL's form, as in `losses.dhel`.
    t, gamma: KCL's Gaussian kernel `exp(-t r^2)` and weight; defaults as in `losses.kcl`.
    kernel, align_kernel: other kernels for KCL, as in `losses.kcl`.

  Returns:
    A scalar array.

  Raises:
    ValueError: an unknown loss or energy, or n outside `2 <= n <= d + 1`, where no simplex exists.

  >>> print(round(float(optimum("info_nce", 8, 16, temperature=0.3)), 5))
  0.1442

  References: arXiv 2405.18045; docs/theory.md, section 1.
  """
  _arrays.choice("loss", loss, LOSSES)
  _arrays.choice("energy", energy, ("anchor", "mean", "sum"))
  if not 2 <= n <= d + 1:
    raise ValueError(f"n must satisfy 2 <= n <= d + 1 for a simplex to exist, got n={n}, d={d}; the minimum is not "
                     "known in closed form otherwise")
  if loss == "kcl":
    kernel = kernel or (lambda x: jnp.exp(-t * x))
    align_kernel = align_kernel or kernel
    return -2 * align_kernel(jnp.zeros(())) + 2 * gamma * kernel(jnp.asarray(2.0 * n / (n - 1)))
  tau = _arrays.positive("temperature", temperature_of(loss, temperature))
  q = jnp.asarray(n / ((n - 1) * tau))
  if loss == "info_nce":
    return jnp.logaddexp(0.0, jnp.log(n - 1.0) - q)
  if loss == "nt_xent":
    return jnp.logaddexp(0.0, jnp.log(2 * (n - 1.0)) - q)
  if loss == "dcl":
    return jnp.log(2 * (n - 1.0)) - q
  if energy == "sum":
    return 2 * jnp.log(n - 1.0) - (n + 1) / ((n - 1) * tau)
  return jnp.log(n - 1.0) - q
