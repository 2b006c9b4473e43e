"""Distance of a representation's cosines from those of uniform points on the sphere, in every dimension.

The inner product of two uniform points on the unit sphere of R^d has density `c_d (1 - x^2)^((d-3)/2)` on [-1, 1],
`c_d = Gamma(d/2) / (sqrt(pi) Gamma((d-1)/2))`: it is `2 Beta((d-1)/2, (d-1)/2) - 1`.
"""

from __future__ import annotations

import functools
import math
from typing import TYPE_CHECKING

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from spectral_jax import _arrays

if TYPE_CHECKING:
  from jaxtyping import Array, ArrayLike, Float

CELLS = 4096  # of equal probability under the law
TILE = 128  # rows whose cosines are alive at once


def wasserstein_uniformity(z: Float[ArrayLike, "n d"]) -> Float[Array, ""]:
  """Wasserstein-1 distance between the cosines of all pairs of rows and their law for uniform points; 0 is uniform.

  `W_1 = integral |F_n(x) - F(x)| dx`, `F_n` the distribution function of the cosines `z_i.z_j`, i < j, and `F` that of
  the inner product of two uniform points on the sphere of R^d.

  The integral is taken over 4,096 cells of equal probability, which the law's exact quantiles bound, from the number
  and the sum of the cosines in each. It is exact but for cells inside which `F_n` crosses `F`: those add an error of at
  most a 4,096th of their width each. No sampling; memory is linear in n.

  Args:
    z: `(n, d)` embeddings, d >= 2; rows are L2-normalized inside, a zero row stays zero.

  Returns:
    A scalar of at least float32 in [0, 1]: 1 if all rows are equal. 0 for a single row, which has no pair; NaN if an
    entry is NaN. Its gradient is that of `W_1`, where the cosines differ.

  Raises:
    TypeError, ValueError: `z` is not a floating-point matrix, or has one column: in R^1 there are two unit points, and
    the law of their product has no density.

  >>> import jax
  >>> z = jax.random.normal(jax.random.key(0), (1000, 16))
  >>> print(*(f"{wasserstein_uniformity(x):.3f}" for x in (z, z + 1, z * 0 + 1)))
  0.000 0.500 1.000

  Reference: the measure is of arXiv 2405.18045, whose code draws new uniform points at each call.
  """
  z = _arrays.matrix("z", z)
  if z.shape[1] < 2:
    raise ValueError(f"z must have at least 2 columns, got shape {z.shape}; the unit sphere of R^1 is two points")
  return jnp.zeros((), z.dtype) if z.shape[0] == 1 else _distance(z)


@jax.jit
def _distance(z):
  n, d = z.shape
  z = _arrays.unit_rows(z)
  nodes, areas = (jnp.asarray(a, z.dtype) for a in _law(d))

  @jax.checkpoint
  def add(carry, i):
    counts, above = carry
    rows = i * tile + jnp.arange(tile)
    cosines = jnp.clip(jnp.matmul(z[jnp.minimum(rows, n - 1)], z.T, precision=_arrays.HIGHEST), -1.0, 1.0)
    pairs = (rows[:, None] < n) & (rows[:, None] != jnp.arange(n))
    cell = jnp.clip(jnp.searchsorted(nodes, cosines, side="right") - 1, 0, CELLS - 1)
    counts = counts + jnp.zeros_like(counts).at[cell].add(pairs.astype(z.dtype))
    return (counts, above + jnp.zeros_like(above).at[cell].add(jnp.where(pairs, nodes[cell + 1] - cosines, 0.0))), None

  tile = min(TILE, n)
  marker = z[0, 0] * 0  # types the carry as varying over the mesh axes that z varies over, and is NaN if z is
  start = (jnp.zeros(CELLS, z.dtype) + marker, jnp.zeros(CELLS, z.dtype) + marker)
  counts, above = lax.scan(add, start, jnp.arange(-(-n // tile)))[0]
  number = n * (n - 1.0)
  before = (jnp.cumsum(counts) - counts) / number
  excess = (before - jnp.arange(CELLS) / CELLS) * jnp.diff(nodes) + above / number - areas
  return jnp.sum(jnp.abs(excess))


@functools.lru_cache(maxsize=64)
def _law(d):
  """The bounds of the cells, `(CELLS + 1,)`, and in each the integral of F less its value at the left bound."""
  nodes = quantiles(np.arange(CELLS + 1) / CELLS, d)
  # By parts: x F - G, with G the integral of t times the density.
  partial = -_density_constant(d) / (d - 1) * (1 - nodes**2) ** ((d - 1) / 2)
  return nodes, nodes[1:] / CELLS - np.diff(partial)


def quantiles(levels: Float[ArrayLike, " k"], d: int) -> Float[np.ndarray, " k"]:
  """The x with `F(x) = level` for the inner product of two uniform points on the sphere of R^d, d >= 2, in float64.

  NumPy, not JAX: levels and d are known when a program is built. Newton's steps in the angle `asin x`, inside a bracket
  that halves wherever a step would leave it.

  >>> import numpy as np
  >>> print(quantiles(np.array([0.0, 0.25, 0.5, 1.0]), 3))
  [-1.  -0.5  0.   1. ]
  """
  levels = np.asarray(levels, np.float64)
  target = np.abs(levels - 0.5)  # the law is symmetric
  low, high = np.zeros_like(target), np.full_like(target, np.pi / 2)
  angle = np.minimum(target * math.pi, 1.0 / math.sqrt(d))
  for _ in range(60):
    error = _above_half(angle, d) - target
    low, high = np.where(error < 0, angle, low), np.where(error < 0, high, angle)
    slope = _density_constant(d) * np.cos(angle) ** (d - 2)
    step = angle - error / np.maximum(slope, np.finfo(np.float64).tiny)
    following = np.where((step > low) & (step < high), step, (low + high) / 2)
    settled = np.max(np.abs(following - angle)) < 1e-15
    angle = following
    if settled:
      break
  angle = np.where(target == 0.5, np.pi / 2, np.where(target == 0, 0.0, angle))
  return np.sign(levels - 0.5) * np.sin(angle)


def _density_constant(d):
  return math.exp(math.lgamma(d / 2) - math.lgamma((d - 1) / 2)) / math.sqrt(math.pi)


def _above_half(angle, d):
  """`F(sin angle) - 1/2`, a sum of positive terms: `F_{e+2} = F_e + c_e x (1 - x^2)^((e-1)/2) / (e - 1)`."""
  x, cosine = np.sin(angle), np.cos(angle)
  e = 2 + d % 2
  value, constant = (angle / math.pi, 1 / math.pi) if e == 2 else (x / 2, 0.5)
  term = constant * x * cosine ** (e - 1) / (e - 1)
  while e < d:
    value = value + term
    term = term * cosine**2 * (e / (e + 1))  # c_{e+2} / c_e = e / (e - 1), and (e - 1) / (e + 1) of the divisors
    e += 2
  return value
