"""The plug-in band of one anchor: regression of its weights on a few directions.

Let `F` span the anchor `u` and the k leading eigenvectors of the bank. Along `F` the gradient is known exactly from
projections. Across `F`, the deviation of the weights from uniform is regressed on the projections: what the
regression explains moves the negatives' mean by a known vector, and what it leaves, of mean square `rest`, moves it
by at most `sqrt(lambda_{k+1} rest)`. docs/theory.md proves it, for any regression coefficients.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import jax.numpy as jnp

from spectral_jax.bounds.band import deviations, norm, product, root

if TYPE_CHECKING:

  from jaxtyping import Array, Bool, Float

  from spectral_jax._anchors import Anchor
  from spectral_jax.bounds.band import Shared


def completing(u_i: Float[Array, " d"], directions: Float[Array, "d k"]
               ) -> tuple[Float[Array, " d"], Float[Array, " k"], Float[Array, ""]]:
  """The unit vector that completes the directions to a basis of `F`, zero where u lies in their span; and its scale.

  Returns:
    `(x, coordinates, scale)` with `x = scale (u - directions @ coordinates)`.
  """
  coordinates = product(u_i, directions)
  rest = u_i - product(directions, coordinates)
  again = product(rest, directions)  # rounding left a little of them
  rest = rest - product(directions, again)
  size = norm(rest)
  inside = size < 1e-3  # too short to point anywhere; the bound holds without it
  scale = jnp.where(inside, 0.0, 1 / jnp.where(inside, 1.0, size))
  return scale * rest, coordinates + again, scale


def regressed(omega: Float[Array, " N"], mask: Bool[Array, " N"], count: Float[Array, ""],
              completed: Float[Array, " N"], common: Shared) -> tuple[Float[Array, " N"], Float[Array, ""]]:
  """What the projections explain of `omega`, `(N,)`, and the mean square of what they leave.

  One coefficient at a time: the projections on eigenvectors and on what completes them are uncorrelated over the
  whole bank, and leaving a few rows out changes that little. The bound holds for any coefficients.

  Args:
    omega: `(N,)` `m w_j - 1` on the kept rows, else 0.
    mask: `(N,)` 1 where kept, else 0.
    completed: `(N,)` projections of the bank on the completing vector.
  """
  tiny = 64 * jnp.finfo(omega.dtype).eps * common.top  # directions without spread explain nothing

  def slope(covariance, variance):
    usable = variance > tiny
    return jnp.where(usable, covariance / jnp.where(usable, variance, 1.0), 0.0)

  means = product(mask, common.projections) / count
  variances = product(mask, common.projections ** 2) / count - means ** 2
  slopes = slope(product(omega, common.projections) / count, variances)
  deviation = (completed - jnp.sum(mask * completed) / count) * mask
  last = slope(jnp.sum(omega * deviation) / count, jnp.sum(deviation * deviation) / count)
  fitted = (product(common.projections, slopes) - jnp.sum(means * slopes)) * mask + last * deviation
  return fitted, jnp.sum((omega - fitted) ** 2) / count


def regression_band(anchor: Anchor, common: Shared) -> tuple[Float[Array, ""], Float[Array, ""], Float[Array, ""]]:
  """`(lower, value, upper)` of one anchor's gradient norm; an `Anchor` and the bank's `Shared`."""
  count, mean, omega = deviations(anchor, common)
  pull = anchor.attraction * anchor.v
  shift = product(omega, common.centered) / count  # m_w - mu
  g = anchor.repulsion * (mean + shift) - pull
  completion, coordinates, scale = completing(anchor.u, common.directions)
  # The bank's projections on it, from similarities that are known; exact enough, as any coefficients make a bound.
  completed = scale * (anchor.similarities - product(common.projections, coordinates))
  fitted, rest = regressed(omega, anchor.mask, count, completed, common)
  h = anchor.repulsion * (mean + product(fitted, common.centered) / count) - pull

  along = jnp.append(product(g, common.directions), jnp.sum(g * completion))
  across = h - product(common.directions, product(h, common.directions)) - jnp.sum(h * completion) * completion
  size = norm(across)
  rho = anchor.repulsion * root(rest * common.following * common.centered.shape[0] / count)
  lower = norm(jnp.append(along, jnp.maximum(size - rho, 0.0)))
  upper = norm(jnp.append(along, size + rho))
  return lower, norm(g), upper
