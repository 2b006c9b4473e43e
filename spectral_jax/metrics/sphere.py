"""Alignment and uniformity on the unit sphere (Wang and Isola 2020, arXiv 2005.10242).

Notation: `u_i`, `v_i` are unit rows, a positive pair; `r^2 = ||x - y||^2 = 2 - 2 x.y`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import jax
import jax.numpy as jnp
from jax import lax

from spectral_jax import _arrays, _eager

if TYPE_CHECKING:
  from jaxtyping import Array, ArrayLike, Float

  from spectral_jax._types import Scalar

TILE = 512  # anchor rows whose similarities are alive at once


@_eager.compiled("alpha")
def alignment(u: Float[ArrayLike, "n d"], v: Float[ArrayLike, "n d"], *, alpha: Scalar = 2) -> Float[Array, ""]:
  """Mean distance between positives, `mean_i ||u_i - v_i||^alpha`; 0 is perfect.

  Args:
    u: `(n, d)` embeddings; rows are L2-normalized inside, a zero row stays zero.
    v: `(n, d)` their positives.
    alpha: exponent > 0; 2 is the default of Wang and Isola.

  Returns:
    A scalar of at least float32, between 0 and `2**alpha`; NaN if a row holds NaN or inf.

  Raises:
    TypeError, ValueError: integer embeddings, shapes that differ, or a concrete `alpha <= 0`.

  >>> import jax.numpy as jnp
  >>> u = jnp.eye(2)
  >>> print(alignment(u, u), alignment(u, -u))
  0.0 4.0
  """
  u, v = _arrays.pair(u, v)
  _arrays.positive("alpha", alpha)
  difference = _arrays.unit_rows(u) - _arrays.unit_rows(v)
  squares = jnp.sum(difference * difference, axis=-1)
  together = squares == 0  # 0 ** (alpha / 2) has an infinite derivative for alpha < 2
  return jnp.mean(jnp.where(together, 0.0, jnp.where(together, 1.0, squares) ** (alpha / 2)))


@_eager.compiled(t=_arrays.positive)
def uniformity(z: Float[ArrayLike, "n d"], *, t: Scalar = 2) -> Float[Array, ""]:
  """Log of the mean Gaussian potential between rows, `log mean_{i<j} exp(-t ||z_i - z_j||^2)`; lower is more uniform.

  Memory is linear in n: similarities are formed a few hundred rows at a time, in the gradient as well.

  Args:
    z: `(n, d)` embeddings; rows are L2-normalized inside, a zero row stays zero.
    t: width parameter > 0; 2 is the default of Wang and Isola.

  Returns:
    A scalar of at least float32, between `-4 t` and 0; 0 for a single row, which has no pair. NaN if a row holds NaN
    or inf.

  Raises:
    TypeError, ValueError: integer embeddings, a wrong rank, or a concrete `t <= 0`.

  >>> import jax.numpy as jnp
  >>> print(uniformity(jnp.array([[1.0, 0.0], [-1.0, 0.0]])))
  -8.0
  """
  z = _arrays.unit_rows(_arrays.matrix("z", z))
  _arrays.positive("t", t)
  n = z.shape[0]
  if n == 1:
    return jnp.zeros((), z.dtype)
  squares = jnp.sum(z * z, axis=-1)

  @jax.checkpoint
  def log_row(args):
    i, row, square = args
    distances = jnp.maximum(square + squares - 2 * jnp.matmul(z, row, precision=_arrays.HIGHEST), 0.0)
    return jax.nn.logsumexp(jnp.where(jnp.arange(n) == i, -jnp.inf, -t * distances))

  rows = lax.map(log_row, (jnp.arange(n), z, squares), batch_size=min(TILE, n))
  return jax.nn.logsumexp(rows) - jnp.log(jnp.asarray(n * (n - 1.0), z.dtype))
