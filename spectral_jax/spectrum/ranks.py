"""Eigenvalues of the second-moment matrix, and four effective ranks made of them.

Notation: `z` is `(n, d)`; `l_1 >= l_2 >= ...` are the eigenvalues of `z^T z / n` (of the covariance when centred),
`sigma_k = sqrt(n l_k)` the singular values. The ranks differ: name the one you mean. Always
`stable <= participation <= entropy <= rank` and `entropy <= rankme`.
"""

import jax.numpy as jnp
from jax import lax

from spectral_jax import _arrays

KINDS = ("entropy", "rankme", "participation", "stable")
RANKME_EPSILON = 1e-7  # added to every p, as published (arXiv 2210.02885)


def centre(z):
  """Subtracts the mean row; rows that are all equal become exactly zero, which a rounded mean would not give."""
  z = z - lax.stop_gradient(z[:1])
  return z - jnp.mean(z, axis=0, keepdims=True)


def rescale(z):
  """`(z / f, f)` with f a power of two near the largest entry: squares then neither overflow nor vanish.

  Dividing by a power of two is exact, so that rows that are equal stay equal however the compiler fuses it.
  """
  exponent = jnp.frexp(lax.stop_gradient(jnp.max(jnp.abs(z))))[1]
  limit = -jnp.finfo(z.dtype).minexp - 1  # beyond it the reciprocal would be flushed to zero
  exponent = jnp.clip(exponent, -limit, limit)
  return z * jnp.ldexp(jnp.ones((), z.dtype), -exponent), jnp.ldexp(jnp.ones((), z.dtype), exponent)


def eigenvalues(z, *, center=False):
  """Eigenvalues of `z^T z / n`, largest first.

  They come from the smaller of the two Gram matrices. Their gradient is finite where eigenvalues coincide (there,
  only functions that treat the tied ones alike are differentiable, and those get their true gradient).

  Args:
    z: `(n, d)` embeddings, used as they are (not normalised).
    center: subtract the mean row first, which gives the spectrum of the covariance.

  Returns:
    `(min(n, d),)` in units of `z` squared, at least float32, never negative; zeros for a constant matrix that is
    centred; the largest finite number instead of an overflow.

  Raises:
    TypeError, ValueError: `z` is not a floating-point matrix.

  >>> import jax.numpy as jnp
  >>> print(eigenvalues(jnp.array([[2.0, 0.0], [0.0, 1.0]])))
  [2.  0.5]
  """
  z = _arrays.matrix("z", z)
  scaled, factor = rescale(z)
  if center:
    scaled, second = rescale(centre(scaled))
    factor = factor * second
  n, d = z.shape
  wide = scaled if d <= n else scaled.T
  gram = jnp.matmul(wide.T, wide, precision=_arrays.HIGHEST) / n
  values = jnp.maximum(jnp.linalg.eigvalsh(gram)[::-1], 0.0)
  return jnp.minimum(values * factor * factor, jnp.finfo(z.dtype).max)


def effective_ranks(z, *, center=False):
  """All four effective ranks from one eigendecomposition: a dictionary, `effective_rank` for each kind.

  >>> import jax.numpy as jnp
  >>> sorted(effective_ranks(jnp.eye(3)))
  ['entropy', 'participation', 'rankme', 'stable']
  """
  sigma = _singular_values(_arrays.matrix("z", z), center)
  return {kind: _rank(sigma, kind) for kind in KINDS}


def effective_rank(z, *, kind="entropy", center=False):
  """How many dimensions a representation uses.

  With `p = l / sum l`: `entropy` is `exp(-sum p log p)` (the Vendi score of the linear kernel), `participation`
  `1 / sum p^2`, `stable` `1 / max p`. `rankme` is the entropy form of `p = sigma / sum sigma + 1e-7`.

  Args:
    z: `(n, d)` embeddings, used as they are (not normalised).
    kind: one of `"entropy"` (default), `"rankme"`, `"participation"`, `"stable"`.
    center: subtract the mean row first.

  Returns:
    A scalar of at least float32, between 1 and `min(n, d)` (`rankme` may exceed it by its 1e-7); 0 for a matrix of
    zeros, as a constant matrix is after centring. It does not depend on the scale of `z`.

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
  scaled = rescale(z)[0]
  scaled = rescale(centre(scaled))[0] if center else scaled
  tall = scaled if z.shape[1] <= z.shape[0] else scaled.T
  gram = jnp.matmul(tall.T, tall, precision=_arrays.HIGHEST)
  vectors = jnp.linalg.eigh(lax.stop_gradient(gram))[1]
  squares = jnp.sum(jnp.matmul(tall, vectors, precision=_arrays.HIGHEST) ** 2, axis=0)
  nonzero = squares > 0
  return jnp.where(nonzero, jnp.sqrt(jnp.where(nonzero, squares, 1.0)), 0.0)


def _participation(z, center):
  """`tr(C)^2 / ||C||_F^2`, which needs no eigendecomposition."""
  scaled = rescale(z)[0]
  scaled = rescale(centre(scaled))[0] if center else scaled
  wide = scaled if z.shape[1] <= z.shape[0] else scaled.T
  gram = jnp.matmul(wide.T, wide, precision=_arrays.HIGHEST)
  trace, squares = jnp.trace(gram), jnp.sum(gram * gram)
  nonzero = squares > 0
  return jnp.where(nonzero, trace * trace / jnp.where(nonzero, squares, 1.0), 0.0)


def _rank(sigma, kind):
  weights = sigma if kind == "rankme" else sigma * sigma
  total = jnp.sum(weights)
  nonzero = total > 0
  p = weights / jnp.where(nonzero, total, 1.0)
  if kind == "stable":
    rank = 1 / jnp.where(nonzero, jnp.max(p), 1.0)
  elif kind == "participation":
    rank = 1 / jnp.where(nonzero, jnp.sum(p * p), 1.0)
  else:
    p = p + RANKME_EPSILON if kind == "rankme" else p
    # p log p has an infinite slope at 0; what is dropped is below float32's resolution of the sum.
    counts = p > 1e-12
    rank = jnp.exp(-jnp.sum(jnp.where(counts, p * jnp.log(jnp.where(counts, p, 1.0)), 0.0)))
  return jnp.where(nonzero, rank, 0.0)
