"""The three sums that CKA and RSA are made of, from moments or from n x n matrices, whichever is smaller.

Notation. Centered paired rows; `K = X X^T`, `L = Y Y^T`, of which `k` and `l` are the off-diagonal means;
`a_i = K_ii`, `b_i = L_ii`, `alpha_i` and `beta_i` the same less their means. With

    whole = sum_ij K_ij L_ij      off = sum_{i != j} (K_ij - k)(L_ij - l)      diagonal = sum_i alpha_i beta_i

the three measures are normalized inner products of (docs/metrics.md has the proof):

    biased CKA: whole      unbiased CKA: off - 2 diagonal / (n - 2)      Pearson RSA: off + (n + 2)/2 diagonal
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from spectral_jax import _arrays
from spectral_jax.metrics import _moments


class Products(NamedTuple):
  """Three scalars of a pair of sides; see the module's head."""

  whole: jax.Array
  off: jax.Array
  diagonal: jax.Array


class Three(NamedTuple):
  """`Products` of x with x, y with y and x with y, and the number of rows."""

  xx: Products
  yy: Products
  xy: Products
  n: jax.Array


def of_moments(state):
  """From `Moments`: with `C = X^T Y`, `whole = |C|^2`, `off = |C|^2 - sum a_i sum b_i / (n - 1) - diagonal`."""
  sums = jax.tree.map(jnp.add, state.sums, state.sums_rest)
  n = _moments.size(state)
  a, b = _moments.trace(sums.xx.cross), _moments.trace(sums.yy.cross)

  def of(pair, left, right):
    whole = _moments.total(pair.cross * pair.cross)
    return Products(whole, whole - left * (right / jnp.maximum(n - 1, 1)) - pair.squares, pair.squares)

  return Three(of(sums.xx, a, a), of(sums.yy, b, b), of(sums.xy, a, b), n)


def of_grams(x, y, where, *, unit):
  """From the n x n matrices themselves, which lose nothing where d is far greater than n."""
  state = _moments.with_reference(_moments.empty(x.shape[1], y.shape[1], x.dtype), x, y, where, unit)
  n = jnp.sum(where, dtype=jnp.int32).astype(x.dtype)
  others = where[:, None] & where & ~jnp.eye(x.shape[0], dtype=bool)

  def side(z, reference, scale):
    rows = _moments.centered(z, reference, scale, where, unit)[0]
    gram, squares = _moments.dot(rows, rows.T), jnp.sum(rows * rows, axis=1)
    mean = -jnp.sum(squares) / jnp.maximum(n * (n - 1), 1)  # a row of K sums to zero
    return gram, jnp.where(others, gram - mean, 0.0), _moments.around_mean(squares, where)

  left, right = (side(z, *rest) for z, *rest in zip((x, y), state.reference, state.scale))

  def of(one, other):
    return Products(*(_moments.total(a * b) for a, b in zip(one, other)))

  return Three(of(left, left), of(right, right), of(left, right), n)


def of_rows(x, y, where, axis_name, *, unit):
  """From the rows: by whichever form multiplies less, and so holds less."""
  (n, d), e = x.shape, y.shape[1]
  if axis_name is None and n * (d + e) <= d * d + d * e + e * e:
    return of_grams(x, y, where, unit=unit)
  state = _moments.update(_moments.empty(d, e, x.dtype), x, y, where, unit=unit)
  return of_moments(state if axis_name is None else _moments.psum(state, axis_name, unit=unit))


def cosine(xy, xx, yy):
  """`xy / sqrt(xx yy)`, exactly 1 where the three are equal; NaN unless xx and yy are positive."""
  defined = (xx > 0) & (yy > 0)
  xx, yy = jnp.where(defined, xx, 1.0), jnp.where(defined, yy, 1.0)
  # Products of fourth powers would leave float32's range; dividing by powers of two is exact.
  f, g = (_moments.power_of_two(jax.lax.stop_gradient(jnp.sqrt(s))) for s in (xx, yy))
  return jnp.where(defined, xy / f / g / jnp.sqrt((xx / f / f) * (yy / g / g)), jnp.nan)


def cka(three, unbiased):
  """Linear CKA; NaN for fewer rows than it needs."""
  def hsic(p):
    return p.off - 2 / jnp.maximum(three.n - 2, 1) * p.diagonal if unbiased else p.whole

  value = cosine(hsic(three.xy), hsic(three.xx), hsic(three.yy))
  return jnp.where(three.n >= (4 if unbiased else 2), value, jnp.nan)


def pearson_rsa(three):
  """Pearson's RSA, of unit rows; NaN for fewer than three."""
  def covariance(p):
    return p.off + (three.n + 2) / 2 * p.diagonal

  value = cosine(covariance(three.xy), covariance(three.xx), covariance(three.yy))
  return jnp.where(three.n >= 3, value, jnp.nan)


def rows_of(x, y, where, least, what):
  """Two float arrays of as many rows, and their mask; raises if there are fewer rows than `what` needs."""
  x, y = _arrays.matrix("x", x), _arrays.matrix("y", y)
  if x.shape[0] != y.shape[0]:
    raise ValueError(
        f"x and y must have the same number of rows, row i of both being the same example; got {x.shape} and {y.shape}")
  if x.shape[0] < least:
    raise ValueError(f"{what} needs at least {least} rows, got {x.shape[0]} in x and y; pass more examples")
  dtype = jnp.promote_types(x.dtype, y.dtype)
  return x.astype(dtype), y.astype(dtype), _arrays.mask_of(where, x.shape[0])
