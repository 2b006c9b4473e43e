"""Eigenvalues of the second-moment matrix, and four effective ranks made of them.

Notation: `z` is `(n, d)`; `l_1 >= l_2 >= ...` are the eigenvalues of `z^T z / n` (of the covariance when centered),
`sigma_k = sqrt(n l_k)` the singular values. The ranks differ: name the one you mean. Always
`stable <= participation <= entropy <= rank` and `entropy <= rankme`.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

import jax
import jax.numpy as jnp
from jax import lax

from spectral_jax import _arrays, _eager

if TYPE_CHECKING:
  from typing import Literal

  from jaxtyping import Array, ArrayLike, Float

KINDS = ("entropy", "rankme", "participation", "stable")
RANKME_EPSILON = 1e-7  # added to every p, as published (arXiv 2210.02885)


def around_mean(z: Float[Array, "n d"]) -> Float[Array, "n d"]:
  """Subtracts the mean row; rows that are all equal become exactly zero, which a rounded mean would not give."""
  z = z - lax.stop_gradient(z[:1])
  return z - jnp.mean(z, axis=0, keepdims=True)


def rescale(z: Float[Array, "n d"]) -> tuple[Float[Array, "n d"], Float[Array, ""]]:
  """`(z / f, f)` with f a power of two near the largest entry: squares then neither overflow nor vanish.

  Dividing by a power of two is exact, so that rows that are equal stay equal however the compiler fuses it.
  """
  largest = lax.stop_gradient(jnp.max(jnp.abs(z)))
  exponent = jnp.frexp(largest)[1]
  limit = -jnp.finfo(z.dtype).minexp - 1  # beyond it the reciprocal would be flushed to zero
  exponent = jnp.clip(exponent, -limit, limit)
  # NaN or inf anywhere makes everything NaN: a decomposition need not return NaN for it.
  reciprocal = jnp.where(jnp.isfinite(largest), jnp.ldexp(jnp.ones((), z.dtype), -exponent), jnp.nan)
  return z * reciprocal, jnp.ldexp(jnp.ones((), z.dtype), exponent)


def scaled_rows(z: Float[Array, "n d"], center: bool) -> tuple[Float[Array, "n d"], Float[Array, ""]]:
  """`(rows, factor)` with `z = factor * rows`, centered if asked, the largest entry near 1."""
  rows, factor = rescale(z)
  if not center:
    return rows, factor
  rows, second = rescale(around_mean(rows))
  return rows, factor * second


def _tall(rows):
  """The rows or their transpose: never more columns than rows."""
  return rows if rows.shape[1] <= rows.shape[0] else rows.T


def _gram(tall):
  return jnp.matmul(tall.T, tall, precision=_arrays.HIGHEST)


@_eager.compiled("center")
def eigenvalues(z: Float[ArrayLike, "n d"], *, center: bool = False) -> Float[Array, " k"]:
  """Eigenvalues of `z^T z / n`, largest first.

  They come from the smaller of the two Gram matrices. Their gradient is finite where eigenvalues coincide (there,
  only functions that treat the tied ones alike are differentiable, and those get their true gradient).

  Args:
    z: `(n, d)` embeddings, used as they are (not normalized).
    center: subtract the mean row first, which gives the spectrum of the covariance.

  Returns:
    `(min(n, d),)` in units of `z` squared, at least float32, never negative; zeros for a constant matrix that is
    centered; the largest finite number, with slope 0, instead of an overflow. NaN if `z` holds NaN or inf.

  Raises:
    TypeError, ValueError: `z` is not a floating-point matrix.

  >>> import jax.numpy as jnp
  >>> print(eigenvalues(jnp.array([[2.0, 0.0], [0.0, 1.0]])))
  [2.  0.5]
  """
  return _eigenvalues(_arrays.matrix("z", z), center)


@partial(jax.custom_jvp, nondiff_argnums=(1,))
def _eigenvalues(z, center):
  rows, factor = scaled_rows(z, center)
  return _in_units(jnp.linalg.eigvalsh(_gram(_tall(rows)))[::-1], factor, z)


def _in_units(values, factor, z):
  """Eigenvalues of `z^T z / n` from those of the scaled rows' Gram matrix."""
  return jnp.minimum(jnp.maximum(values / z.shape[0], 0.0) * factor * factor, jnp.finfo(z.dtype).max)


@_eigenvalues.defjvp
def _eigenvalues_jvp(center, primals, tangents):
  """`dl_k = 2/n (z q_k).(dz q_k)`, q_k the eigenvectors.

  One power of the factor suffices here; through the values it would be squared, and overflow where they need not.
  """
  (z,), (dz,) = primals, tangents
  rows, factor = scaled_rows(z, center)
  dz = dz - jnp.mean(dz, axis=0, keepdims=True) if center else dz
  values, vectors = jnp.linalg.eigh(_gram(_tall(rows)))
  values, vectors = _in_units(values[::-1], factor, z), vectors[:, ::-1]
  images, moved = (jnp.matmul(_tall(m), vectors, precision=_arrays.HIGHEST) for m in (rows, dz))
  slopes = jnp.sum(images * moved, axis=0) * (2 / z.shape[0]) * factor
  return values, jnp.where(values >= jnp.finfo(z.dtype).max, 0.0, slopes)


@_eager.compiled("center")
def effective_ranks(z: Float[ArrayLike, "n d"], *, center: bool = False) -> dict[str, Float[Array, ""]]:
  """All four effective ranks from one eigendecomposition: a dictionary, `effective_rank` for each kind.

  >>> import jax.numpy as jnp
  >>> sorted(effective_ranks(jnp.eye(3)))
  ['entropy', 'participation', 'rankme', 'stable']
  """
  sigma = _singular_values(_arrays.matrix("z", z), center)
  return {kind: _rank(sigma, kind) for kind in KINDS}


@_eager.compiled("kind", "center")
def effective_rank(z: Float[ArrayLike, "n d"], *,
                   kind: Literal["entropy", "rankme", "participation", "stable"] = "entropy",
                   center: bool = False) -> Float[Array, ""]:
  """How many dimensions a representation uses.

  With `p = l / sum l`: `entropy` is `exp(-sum p log p)` (the Vendi score of the linear kernel), `participation`
  `1 / sum p^2`, `stable` `1 / max p`. `rankme` is the entropy form of `p = sigma / sum sigma + 1e-7`.

  Args:
    z: `(n, d)` embeddings, used as they are (not normalized).
    kind: one of `"entropy"` (default), `"rankme"`, `"participation"`, `"stable"`.
    center: subtract the mean row first.

  Returns:
    A scalar of at least float32, between 1 and `min(n, d)` (`rankme` may exceed it by its 1e-7); 0 for a matrix of
    zeros, as a constant matrix is after centering; NaN if `z` holds NaN or inf. It does not depend on the scale of `z`.

  Raises:
    TypeError, ValueError: `z` is not a floating-point matrix, or `kind` is unknown.

  References: Roy and Vetterli 2007 (entropy); Garrido et al. 2023, arXiv 2210.02885 (RankMe); Friedman and Dieng
  2023, arXiv 2210.02410 (Vendi score).

  >>> import jax.numpy as jnp
  >>> print(effective_rank(jnp.eye(4)), effective_rank(jnp.ones((4, 4)), kind="participation"))
  4.0 1.0
  """
  z = _arrays.matrix("z", z)
  _arrays.choice("kind", kind, KINDS)
  if kind == "participation":
    return _participation(z, center)
  return _rank(_singular_values(z, center), kind)


def _singular_values(z, center):
  """Singular values as the lengths of z's images of the Gram matrix's eigenvectors.

  As accurate as a decomposition of z itself (the roots of the eigenvalues would lift the zero ones to 3e-4 of the
  greatest, and RankMe with them), at the price of one of the smaller Gram matrix. The vectors are held constant: the
  images are orthogonal, so that turning them changes no length to first order, and ties have a finite slope.
  """
  tall = _tall(scaled_rows(z, center)[0])
  vectors = jnp.linalg.eigh(lax.stop_gradient(_gram(tall)))[1]
  squares = jnp.sum(jnp.matmul(tall, vectors, precision=_arrays.HIGHEST) ** 2, axis=0)
  zero = squares == 0
  return jnp.where(zero, 0.0, jnp.sqrt(jnp.where(zero, 1.0, squares)))


def _participation(z, center):
  """`tr(C)^2 / ||C||_F^2`, which needs no eigendecomposition."""
  gram = _gram(_tall(scaled_rows(z, center)[0]))
  trace, squares = jnp.trace(gram), jnp.sum(gram * gram)
  zero = squares == 0
  return jnp.where(zero, 0.0, trace * trace / jnp.where(zero, 1.0, squares))


def _rank(sigma, kind):
  weights = sigma if kind == "rankme" else sigma * sigma
  total = jnp.sum(weights)
  zero = total == 0
  p = weights / jnp.where(zero, 1.0, total)
  if kind == "stable":
    rank = 1 / jnp.where(zero, 1.0, jnp.max(p))
  elif kind == "participation":
    rank = 1 / jnp.where(zero, 1.0, jnp.sum(p * p))
  else:
    p = p + RANKME_EPSILON if kind == "rankme" else p
    # p log p has an infinite slope at 0; what is dropped is below float32's resolution of the sum.
    negligible = p <= 1e-12
    rank = jnp.exp(-jnp.sum(jnp.where(negligible, 0.0, p * jnp.log(jnp.where(negligible, 1.0, p)))))
  return jnp.where(zero, 0.0, rank)
