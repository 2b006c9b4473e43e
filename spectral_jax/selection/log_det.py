"""Greedy maximization of a determinant: the most probable batch of a determinantal point process, approximately."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

import jax
import jax.numpy as jnp

from spectral_jax._arrays import HIGHEST, positive
from spectral_jax.selection import _checks, _walk

if TYPE_CHECKING:
  from jaxtyping import Array, ArrayLike, Float, Int32, PRNGKeyArray

  from spectral_jax._types import Scalar


def log_det_batch(key: PRNGKeyArray, embeddings: Float[ArrayLike, "m d"], batch_size: int, *,
                  ridge: Scalar = 1e-3) -> Int32[Array, " b"]:
  """Greedy MAP of the determinantal point process whose kernel is `L = X X^T + ridge I`.

  Each step adds the row of largest gain `det L_{S+x} / det L_S = ridge (1 + x^T M^-1 x)`, `M = ridge I + sum_S x x^T`.
  The gains of all rows are kept, and with `w = M^-1 x_new` a step changes them by `-(x . w)^2 / (1 + x_new . w)`: m x d
  operations and m + d^2 numbers besides the bank, never an m x m kernel. Up to d elements this is the pivoted
  Gram-Schmidt order; beyond the rank of X the ridge keeps the determinant positive (a D-optimal design).

  Args:
    key: a JAX random key; it draws the first element, since all unit rows begin with the same gain.
    embeddings: `(m, d)`, unitless; rows are normalized inside.
    batch_size: examples in the batch, at most m.
    ridge: added to the kernel's diagonal, in units of a row's squared norm, which is 1; 1e-3 lets the data decide up to
      the rank and keeps float32 gains accurate to about 1e-4 beyond it.

  Returns:
    `(batch_size,)` int32 indices into `embeddings`, in the order they were taken.

  Raises:
    ValueError: a batch larger than the bank, rows that are not finite, a ridge that is not positive.

  Example:
    >>> import jax
    >>> from spectral_jax.selection import log_det_batch
    >>> bank = jax.random.normal(jax.random.key(0), (100, 8))
    >>> log_det_batch(jax.random.key(1), bank, 4).shape
    (4,)

  Reference: Chen, Zhang and Zhou, "Fast greedy MAP inference for determinantal point process", NeurIPS 2018, in feature
  space instead of over the kernel.
  """
  _checks.check_key(key)
  bank = _checks.check_bank(embeddings, batch_size)
  return _log_det(key, bank, positive("ridge", ridge), batch_size)


@partial(jax.jit, static_argnums=3)
def _log_det(key, bank, ridge, batch_size):
  rows = _checks.directions(bank)
  return _walk.among_all(key, rows, batch_size, initial_gains(rows, ridge), lambda state: -state[0],
                         lambda state, _, best: shrink(state[0], state[1], rows, rows[best]))


def initial_gains(rows: Float[Array, "n d"], ridge: Scalar) -> tuple[Float[Array, " n"], Float[Array, "d d"]]:
  """`x^T M^-1 x` `(n,)` of all rows, and `M^-1`, for the empty batch."""
  return jnp.sum(rows * rows, axis=1) / ridge, jnp.eye(rows.shape[1], dtype=rows.dtype) / ridge


def shrink(gains: Float[Array, " n"], inverse: Float[Array, "d d"], rows: Float[Array, "n d"],
           new: Float[Array, " d"]) -> tuple[Float[Array, " n"], Float[Array, "d d"]]:
  """Gains and `M^-1` once `new` has been added (Sherman and Morrison)."""
  image = jnp.dot(inverse, new, precision=HIGHEST)
  scale = 1 + jnp.dot(new, image, precision=HIGHEST)
  gains = gains - jnp.dot(rows, image, precision=HIGHEST) ** 2 / scale
  return gains, inverse - image[:, None] * image[None, :] / scale
