"""A band: a measured value between two proved bounds; and what the anchors of a batch share."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import jax.numpy as jnp

from spectral_jax import _arrays

if TYPE_CHECKING:
  from jax.typing import DTypeLike
  from jaxtyping import Array, Float

  from spectral_jax._anchors import Anchor

LEADING = 8  # eigenvectors along which the plug-in band is exact: nearly free, and near real embeddings' ranks


class Band(NamedTuple):
  """`lower <= value <= upper`, squared gradient norms in embedding space."""
  lower: Any
  value: Any
  upper: Any


class Shared(NamedTuple):
  """What all anchors of a batch share: one eigendecomposition of the bank's covariance."""
  center: Any       # (d,) mean of the bank
  centered: Any      # (N, d) bank minus center
  directions: Any   # (d, k) leading eigenvectors
  projections: Any  # (N, k) centered @ directions
  top: Any          # greatest eigenvalue
  following: Any    # eigenvalue k + 1, which bounds what the directions leave


def product(a: Float[Array, "..."], b: Float[Array, "..."]) -> Float[Array, "..."]:
  """Matrix product in full precision: with the accelerators' default a bound would not hold."""
  return jnp.matmul(a, b, precision=_arrays.HIGHEST)


def root(x: Float[Array, "..."]) -> Float[Array, "..."]:
  """`sqrt(max(x, 0))` with slope 0, not infinity, at 0."""
  above = ~(x <= 0)  # NaN stays
  return jnp.where(above, jnp.sqrt(jnp.where(above, x, 1.0)), 0.0)


def norm(x: Float[Array, " d"]) -> Float[Array, ""]:
  """Euclidean norm of a vector, with slope 0 at 0."""
  return root(jnp.sum(x * x))


def deviations(anchor: Anchor, common: Shared) -> tuple[Float[Array, ""], Float[Array, " d"], Float[Array, " N"]]:
  """`(m, mu, omega)` of one anchor: how many negatives, at least 1; their mean; `m w_j - 1` on them, else 0.

  The weighted mean of the negatives is `mu + omega @ centered / m`.
  """
  count = jnp.maximum(anchor.count, 1)
  mean = common.center + product(anchor.mask, common.centered) / count
  return count, mean, (count * anchor.weights - 1) * anchor.mask


def slack_of(size: Float[Array, "..."], dtype: DTypeLike) -> Float[Array, "..."]:
  """What rounding can do to the norm of a sum of vectors.

  Args:
    size: the sum of their lengths (attraction + repulsion), which errors are relative to, not to the result's.
  """
  info = jnp.finfo(dtype)
  return 16 * (info.eps * size + float(info.tiny) ** 0.5)  # squares below the least normal number are flushed to 0


def widened(lower: Float[Array, "..."], value: Float[Array, "..."], upper: Float[Array, "..."],
            size: Float[Array, "..."]) -> Band:
  """A `Band` of squares from the norms `lower`, `value` and `upper`, widened by `slack_of(size)`."""
  slack = slack_of(size, value.dtype)
  return Band(jnp.maximum(lower - slack, 0.0) ** 2, value ** 2, (upper + slack) ** 2)


def shared(bank: Float[Array, "N d"], leading: int) -> Shared:
  """One eigendecomposition for all anchors.

  An anchor's own covariance leaves some rows out. With N rows in the bank, m of them kept, `Sigma_i <= (N/m) Sigma`
  as quadratic forms, so that `N/m` times these eigenvalues bounds its own.
  """
  count, d = bank.shape
  center = jnp.mean(bank, axis=0)
  centered = bank - center
  values, vectors = jnp.linalg.eigh(product(centered.T, centered) / count)
  values, vectors = values[::-1], vectors[:, ::-1]
  # Eigenvalues are accurate to a few machine epsilons of the greatest; the bound must not lie below the true one.
  rounding = 8 * jnp.finfo(bank.dtype).eps * jnp.maximum(values[0], 0.0)
  k = min(leading, d)
  following = jnp.maximum(values[k], 0.0) + rounding if k < d else rounding
  projections = product(centered, vectors[:, :k])
  return Shared(center, centered, vectors[:, :k], projections, values[0] + rounding, following)
