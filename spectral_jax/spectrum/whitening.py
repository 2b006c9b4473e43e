"""Whitening a batch: decorrelated directions of equal variance, in three differentiable ways.

Notation: `z` is `(n, d)`, `Sigma` its covariance with weight 1/n, `s` the shrinkage, and
`A = (1 - s) Sigma + s tr(Sigma)/d I`, so that `A = Sigma` has its trace kept and its condition number bounded.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import jax
import jax.numpy as jnp
from jax import lax

from spectral_jax import _arrays, _eager
from spectral_jax.spectrum.ranks import scaled_rows

if TYPE_CHECKING:
  from typing import Literal

  from jaxtyping import Array, ArrayLike, Float

  from spectral_jax._types import Scalar

METHODS = ("zca", "cholesky", "newton_schulz")


# The shrinkage sets how many steps Newton and Schulz take: each value is a program of its own.
@_eager.compiled("method", "shrinkage")
def whiten(z: Float[ArrayLike, "n d"], *, method: Literal["zca", "cholesky", "newton_schulz"] = "zca",
           shrinkage: Scalar = 1e-3) -> Float[Array, "n d"]:
  """Whitens the rows of a batch: `(z - mean) W` with `W W^T = A^-1`, `A = (1 - s) Sigma + s tr(Sigma)/d I`.

  `zca` takes `W = A^(-1/2)` from an eigendecomposition and stays nearest to `z`; `newton_schulz` finds the same
  matrix with matrix products alone (fast on accelerators); `cholesky` takes `W = L^-T`, `A = L L^T`. All are
  differentiable, at repeated eigenvalues as well. On rows that are sharded over devices under `jit` the mean and
  the covariance are those of the global batch. Rows are not normalized afterward: the losses do that.

  Args:
    z: `(n, d)` embeddings.
    method: `"zca"` (default), `"cholesky"` or `"newton_schulz"`.
    shrinkage: `s` in [0, 1]; 1e-3 by default. At least `10 d` machine epsilons are used, so that rank-deficient
      batches (n <= d among them) stay finite: their missing directions come out as zeros.

  Returns:
    `(n, d)`, at least float32, without units. Rows that are all equal, a single row among them, give zeros, with a
    zero gradient. The scale of `z` does not matter: rows of norm 1e30 are whitened like those of norm 1. NaN or inf
    in any row makes all of them NaN.

  Raises:
    TypeError, ValueError: `z` is not a floating-point matrix, `method` is unknown, or a concrete `shrinkage` lies
      outside [0, 1].

  References: Kessy et al. 2018, arXiv 1512.00809 (zca, cholesky); Higham 2008, chapter 6 (coupled Newton-Schulz);
  Ledoit and Wolf 2004 (shrinkage to a multiple of the identity).

  >>> import jax, jax.numpy as jnp
  >>> z = jax.random.normal(jax.random.key(0), (64, 3)) * jnp.array([1.0, 5.0, 0.1])
  >>> w = whiten(z, shrinkage=0.0)
  >>> bool(jnp.allclose(w.T @ w / 64, jnp.eye(3), atol=1e-2))
  True
  """
  z = _arrays.matrix("z", z)
  _arrays.choice("method", method, METHODS)
  value = _arrays.concrete(shrinkage)
  if value is not None and not 0 <= value <= 1:
    raise ValueError(f"shrinkage must lie in [0, 1], got {value}; 1e-3 is a common choice")
  n, d = z.shape
  rows = scaled_rows(z, center=True)[0]
  sigma = jnp.matmul(rows.T, rows, precision=_arrays.HIGHEST) / n
  trace = jnp.trace(sigma)
  constant = trace == 0
  least = 10 * d * float(jnp.finfo(z.dtype).eps)
  s = jnp.minimum(jnp.maximum(shrinkage, least), 1.0).astype(z.dtype)
  identity = jnp.eye(d, dtype=z.dtype)
  # Scaled to unit trace; a batch without spread gets the identity, which its zero rows survive.
  unit = jnp.where(constant, identity / d, sigma / jnp.where(constant, 1.0, trace))
  a = (1 - s) * unit + s / d * identity
  if method == "cholesky":
    factor = jnp.linalg.cholesky(a)
    whitened = jax.scipy.linalg.solve_triangular(factor, rows.T, lower=True).T
  else:
    w = inverse_root(a) if method == "zca" else newton_schulz(a, least if value is None else max(value, least))
    whitened = jnp.matmul(rows, w, precision=_arrays.HIGHEST)
  return whitened / jnp.sqrt(jnp.where(constant, 1.0, trace))


@jax.custom_jvp
def inverse_root(a: Float[Array, "d d"]) -> Float[Array, "d d"]:
  """`A^(-1/2)` of a symmetric positive definite `(d, d)` matrix."""
  return _inverse_root_parts(a)[0]


def _inverse_root_parts(a):
  values, vectors = jnp.linalg.eigh(a)
  # Rounding may turn the least eigenvalue negative; it is at least this fraction of the trace by construction.
  values = jnp.maximum(values, jnp.finfo(a.dtype).eps * jnp.trace(a))
  roots = jnp.sqrt(values)
  return jnp.matmul(vectors / roots, vectors.T, precision=_arrays.HIGHEST), roots, vectors


@inverse_root.defjvp
def _inverse_root_jvp(primals, tangents):
  """Daleckii-Krein: the divided differences of x^(-1/2) are `-1/(ra rb (ra + rb))`, finite where a = b.

  The derivative through the eigenvectors would divide by a - b instead.
  """
  root, roots, vectors = _inverse_root_parts(primals[0])
  product = lambda *m: jnp.linalg.multi_dot(m, precision=_arrays.HIGHEST)
  inner = product(vectors.T, tangents[0], vectors)
  inner = -inner / (roots[:, None] * roots[None, :] * (roots[:, None] + roots[None, :]))
  return root, product(vectors, inner, vectors.T)


def newton_schulz(a: Float[Array, "d d"], shrinkage: float) -> Float[Array, "d d"]:
  """`A^(-1/2)` by the coupled Newton-Schulz iteration: `T = (3 I - Z Y)/2, Y <- Y T, Z <- T Z`, matrix products only.

  Args:
    a: `(d, d)` symmetric, trace 1, least eigenvalue at least `shrinkage / d`.
    shrinkage: Python float; it sets the number of steps: the least eigenvalue of `Y Z` grows by 1.5 per step until it
      nears 1, then the error is squared by each.
  """
  identity = jnp.eye(a.shape[0], dtype=a.dtype)
  norm = jnp.sqrt(jnp.sum(a * a))
  steps = math.ceil(math.log(math.sqrt(a.shape[0] / shrinkage), 1.5)) + 6

  def step(state, _):
    y, z = state
    t = 1.5 * identity - 0.5 * jnp.matmul(z, y, precision=_arrays.HIGHEST)
    return (jnp.matmul(y, t, precision=_arrays.HIGHEST), jnp.matmul(t, z, precision=_arrays.HIGHEST)), None

  # The first step by hand: inside shard_map the carry must vary over devices as `a` does, which the identity does not.
  first = 1.5 * identity - 0.5 * a / norm
  (_, z), _ = lax.scan(step, (jnp.matmul(a / norm, first, precision=_arrays.HIGHEST), first), length=steps - 1)
  return z / jnp.sqrt(norm)
