"""The moments of a growing batch, and what adding one more row does to its participation ratio.

With `C = sum x x^T`, `m = sum x`, `T = sum ||x||^2` and `F = ||C||_F^2` over the k rows of a batch, a further row x
with `s = ||x||^2` (1, or 0 for a zero row) changes them to

    T' = T + s        F' = F + 2 x^T C x + s^2        PR = T'^2 / F'

and, centered, with n = k + 1 and `m' = m + x`,

    tr = T'/n - ||m'||^2/n^2
    ||Sigma||_F^2 = F'/n^2 - 2 m'^T C' m'/n^3 + ||m'||^4/n^4        PR = tr^2 / ||Sigma||_F^2
    ||m'||^2 = ||m||^2 + 2 x.m + s        m'^T C' m' = m^T C m + 2 x^T C m + x^T C x + (x.m + s)^2

(two rows always span one direction about their mean: a second element is judged uncentered). So three products with
each row, `x^T C x`, `x.m` and `x^T C m`, decide every objective.
"""

from typing import NamedTuple

import jax.numpy as jnp

from spectral_jax._arrays import HIGHEST


class Moments(NamedTuple):
  """Of the rows of a batch: C `(d, d)`, m `(d,)`, and the scalars T, F and k."""

  second: jnp.ndarray
  first: jnp.ndarray
  trace: jnp.ndarray
  frobenius: jnp.ndarray
  size: jnp.ndarray


class Products(NamedTuple):
  """What the moments say of each of n rows, `(n,)` each: `x^T C x`, `x.m`, `x^T C m`, `||x||^2`."""

  quadratic: jnp.ndarray
  along: jnp.ndarray
  cross: jnp.ndarray
  square: jnp.ndarray


def empty(d, dtype):
  """The moments of no rows."""
  zero = jnp.zeros((), dtype)
  return Moments(jnp.zeros((d, d), dtype), jnp.zeros((d,), dtype), zero, zero, zero)


def add(moments, x):
  """The moments with the row `x` `(d,)` added: a rank-one update."""
  square = x @ x
  quadratic = jnp.dot(x, jnp.dot(moments.second, x, precision=HIGHEST), precision=HIGHEST)
  return Moments(
      moments.second + x[:, None] * x[None, :],
      moments.first + x,
      moments.trace + square,
      moments.frobenius + 2 * quadratic + square * square,
      moments.size + 1)


def products(moments, rows, *, center):
  """`Products` of `rows` `(n, d)`: n d^2 operations."""
  image = jnp.dot(rows, moments.second, precision=HIGHEST)
  square = jnp.sum(rows * rows, axis=1)
  zero = jnp.zeros_like(square)
  if not center:
    return Products(jnp.sum(image * rows, axis=1), zero, zero, square)
  along = jnp.dot(rows, moments.first, precision=HIGHEST)
  cross = jnp.dot(image, moments.first, precision=HIGHEST)
  return Products(jnp.sum(image * rows, axis=1), along, cross, square)


def rank_with(moments, to, *, center):
  """`(n,)`: the participation ratio of the batch with each row added; 0 where it has no spread at all."""
  trace = moments.trace + to.square
  frobenius = moments.frobenius + 2 * to.quadratic + to.square**2
  if center:
    n = moments.size + 1
    image = jnp.dot(moments.second, moments.first, precision=HIGHEST)
    mean_square = moments.first @ moments.first + 2 * to.along + to.square
    form = moments.first @ image + 2 * to.cross + to.quadratic + (to.along + to.square) ** 2
    centered = n > 2
    trace = jnp.where(centered, trace / n - mean_square / n**2, trace)
    spread = frobenius / n**2 - 2 * form / n**3 + mean_square**2 / n**4
    frobenius = jnp.where(centered, spread, frobenius)
  spread = frobenius > 0
  return jnp.where(spread, trace**2 / jnp.where(spread, frobenius, 1.0), 0.0)


def cost(moments, to, *, objective, target, center):
  """`(n,)`: the smaller, the better the row; infinite for rows without a direction."""
  if objective != "target" and not center:
    # On the sphere PR' falls with x^T C x alone, which is one rounding away from the data instead of three.
    value = to.quadratic if objective == "max" else -to.quadratic
  else:
    rank = rank_with(moments, to, center=center)
    if objective == "target":
      most = jnp.minimum(moments.size + 1, moments.first.shape[0])
      value = jnp.abs(rank - target * most)
    else:
      value = -rank if objective == "max" else rank
  return jnp.where(to.square > 0, value, jnp.inf)
