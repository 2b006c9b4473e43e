"""Alignment of two representations by their nearest neighbors (Huh et al. 2024, arXiv 2405.07987)."""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING

import jax
import jax.numpy as jnp
from jax import lax

from spectral_jax import _arrays
from spectral_jax.metrics import _products

if TYPE_CHECKING:
  from jaxtyping import Array, ArrayLike, Float

TILE_ENTRIES = 2 ** 22  # similarities of one side alive at once: 16 MiB of float32


def mutual_knn(x: Float[ArrayLike, "n d1"], y: Float[ArrayLike, "n d2"], *, k: int = 10) -> Float[Array, ""]:
  """Mean share of an example's `k` nearest neighbors that two representations agree on.

  `mean_i |N_k^x(i) & N_k^y(i)| / k`, `N_k(i)` the k other rows of greatest cosine with row i: 1 if the neighborhoods
  are the same, about `k / (n - 1)` for unrelated ones. Memory is linear in n.

  Args:
    x: `(n, d_x)` one representation; a zero row has cosine 0 with every other.
    y: `(n, d_y)` the other; row i is the same example as row i of x.
    k: neighbors, 1 to n - 1; 10 as in the paper's code. Ties go to the lower index.

  Returns:
    A float32 scalar in [0, 1]; NaN if an entry is NaN.

  Raises:
    TypeError, ValueError: arrays of a wrong type or rank, different numbers of rows, or `k` out of its range.

  >>> import jax
  >>> x = jax.random.normal(jax.random.key(0), (50, 8))
  >>> print(mutual_knn(x, -2 * x, k=5))
  1.0

  Reference: arXiv 2405.07987.
  """
  x, y, _ = _products.rows_of(x, y, None, 2, "mutual_knn")
  if isinstance(k, bool) or not isinstance(k, int) or not 1 <= k < x.shape[0]:
    raise ValueError(f"k must be an integer from 1 to the number of rows less one, {x.shape[0] - 1}; got {k!r}")
  return _mutual_knn(x, y, k=k)


@functools.partial(jax.jit, static_argnames="k")
def _mutual_knn(x, y, *, k):
  n = x.shape[0]
  sides = _arrays.unit_rows(x), _arrays.unit_rows(y)

  def agreement(i):
    near = []
    for z in sides:
      similarity = jnp.matmul(z, z[i], precision=_arrays.HIGHEST)
      near.append(lax.top_k(jnp.where(jnp.arange(n) == i, -jnp.inf, similarity), k)[1])
    return jnp.sum(near[0][:, None] == near[1], dtype=jnp.float32) / k

  value = jnp.mean(lax.map(agreement, jnp.arange(n), batch_size=max(1, min(n, TILE_ENTRIES // n))))
  return jnp.where(jnp.isnan(sides[0]).any() | jnp.isnan(sides[1]).any(), jnp.nan, value)
