"""The plug-in band of one anchor: regression of its weights on a few directions.

Let `F` span the anchor `u` and the k leading eigenvectors of the bank. Along `F` the gradient is known exactly from
projections. Across `F`, the deviation of the weights from uniform is regressed on the projections: what the
regression explains moves the negatives' mean by a known vector, and what it leaves, of mean square `rest`, moves it
by at most `sqrt(lambda_{k+1} rest)`. docs/theory.md proves it, for any regression coefficients.
"""

import jax.numpy as jnp

from spectral_jax.bounds.band import norm, product, root

RIDGE = 1e-6  # keeps the small system solvable; the bound holds for any coefficients, so this costs no rigour


def completing(u_i, directions):
  """The unit vector that completes the directions to a basis of `F`, zero where u lies in their span."""
  rest = u_i - product(directions, product(u_i, directions))
  rest = rest - product(directions, product(rest, directions))  # again: rounding left a little of them
  size = norm(rest)
  inside = size < 1e-3  # too short to point anywhere; the bound holds without it
  return jnp.where(inside, 0.0, rest / jnp.where(inside, 1.0, size))


def regressed(omega, mask, count, anchor, common):
  """What the projections explain of `omega`, `(N,)`, and the mean square of what they leave.

  Args:
    omega: `(N,)` `m w_j - 1` on the kept rows, else 0.
    mask: `(N,)` 1 where kept, else 0.
    anchor: `(N,)` projections of the bank on the completing vector.
  """
  k = common.projections.shape[1]
  means = product(mask, common.projections) / count
  second = product(mask, common.squares).reshape(k, k) / count - jnp.outer(means, means)
  deviation = (anchor - jnp.sum(mask * anchor) / count) * mask
  cross = product(deviation, common.projections) / count
  spread = jnp.sum(deviation * deviation) / count
  gram = jnp.block([[second, cross[:, None]], [cross[None, :], spread[None, None]]])
  target = jnp.append(product(omega, common.projections), jnp.sum(omega * deviation)) / count
  # Standardised, so that the ridge means the same for every direction; one without spread explains nothing.
  variances = jnp.diagonal(gram)
  usable = variances > 64 * jnp.finfo(omega.dtype).eps * common.top
  inverse = jnp.where(usable, 1 / jnp.sqrt(jnp.where(usable, variances, 1.0)), 0.0)
  system = gram * jnp.outer(inverse, inverse) + jnp.diag(RIDGE + jnp.where(usable, 0.0, 1.0).astype(gram.dtype))
  coefficients = inverse * jnp.linalg.solve(system, inverse * target)
  fitted = (product(common.projections, coefficients[:k]) - jnp.sum(means * coefficients[:k])) * mask
  fitted = fitted + coefficients[k] * deviation
  return fitted, jnp.sum((omega - fitted) ** 2) / count


def regression_band(u_i, v_i, attraction, repulsion, weights, mask, common):
  """`(lower, value, upper)` of one anchor's gradient norm.

  Args:
    u_i, v_i: `(d,)` anchor and positive.
    attraction, repulsion: its strengths.
    weights, mask: its `Weights`, and 1 for the bank's rows that are kept, else 0.
    common: `Shared`.
  """
  count = jnp.maximum(weights.count, 1)
  omega = (count * weights.w - 1) * mask
  mean = common.centre + product(mask, common.centred) / count
  shift = product(omega, common.centred) / count  # m_w - mu
  g = repulsion * (mean + shift) - attraction * v_i
  completion = completing(u_i, common.directions)
  fitted, rest = regressed(omega, mask, count, product(completion, common.centred.T), common)
  h = repulsion * (mean + product(fitted, common.centred) / count) - attraction * v_i

  along = jnp.append(product(g, common.directions), jnp.sum(g * completion))
  across = h - product(common.directions, product(h, common.directions)) - jnp.sum(h * completion) * completion
  size = norm(across)
  rho = repulsion * root(rest * common.following * common.centred.shape[0] / count)
  lower = norm(jnp.append(along, jnp.maximum(size - rho, 0.0)))
  upper = norm(jnp.append(along, size + rho))
  return lower, norm(g), upper
