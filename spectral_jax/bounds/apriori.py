"""The a-priori band of one anchor: no softmax, only the extreme and the mean similarity.

With `D = max_j u.z_j - min_j u.z_j` and `scale = 1/tau`, Kantorovich's inequality bounds the variance of the weights,
`chi2 <= min{sinh^2(scale D / 2), m - 1}`; the sum of exponentials lies between `m exp` of the extreme logits and, by
Jensen, above `m exp` of the mean one; and the weighted mean similarity between the mean and the greatest one, since
the weights grow with the similarity.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import jax.numpy as jnp

from spectral_jax import _anchors
from spectral_jax.bounds.band import norm, product, root

if TYPE_CHECKING:
  from jaxtyping import Array, Float

  from spectral_jax._anchors import Anchor, Problem
  from spectral_jax.bounds.band import Shared


def apriori_band(anchor: Anchor, p: Problem,
                 common: Shared) -> tuple[Float[Array, ""], Float[Array, ""], Float[Array, ""]]:
  """`(lower, upper)` of one anchor's gradient norm, and the greatest length before cancellation.

  Of the `Anchor` it uses the vectors, the similarities and which rows are kept: neither weights nor strengths.
  """
  v, similarities, some, kept = anchor.v, anchor.similarities, anchor.count > 0, anchor.mask > 0
  count = jnp.maximum(anchor.count, 1)
  mean_similarity = jnp.sum(similarities * anchor.mask) / count
  greatest = jnp.where(some, jnp.max(jnp.where(kept, similarities, -jnp.inf)), 0.0)
  least = jnp.where(some, jnp.min(jnp.where(kept, similarities, jnp.inf)), 0.0)
  half_range = jnp.minimum(p.scale * (greatest - least) / 2, 40.0)  # sinh^2 passes every m - 1 long before
  chi2 = jnp.minimum(jnp.sinh(half_range) ** 2, count - 1)
  rho = root(common.top * common.centered.shape[0] / count * chi2)
  mean = common.center + product(anchor.mask, common.centered) / count
  positive = jnp.sum(anchor.u * v)

  # The sum of sigmoids has no such bound by Jensen's inequality: they are not convex.
  weakest = least if p.loss == "sigmoid" else mean_similarity

  def strengths_at(similarity):
    log_sum = jnp.where(some, _anchors.logits(p, similarity) + jnp.log(count), -jnp.inf)
    return _anchors.strengths(p, positive, log_sum, anchor.count)

  (weak_pull, weak), (strong_pull, strong) = strengths_at(weakest), strengths_at(greatest)
  if p.loss in ("kcl", "sigmoid"):  # the pull does not depend on the negatives
    pull = weak_pull
    upper = jnp.maximum(norm(weak * mean - pull * v), norm(strong * mean - pull * v)) + strong * rho
    # Nearest point of the segment repulsion * mean, weak <= repulsion <= strong, to the pull.
    squares = jnp.sum(mean * mean)
    nearest = jnp.clip(pull * jnp.sum(mean * v) / jnp.where(squares > 0, squares, 1.0), weak, strong)
    lower = norm(nearest * mean - pull * v) - strong * rho
    least_push = jnp.minimum(weak * mean_similarity, strong * mean_similarity)
    greatest_push = jnp.maximum(weak * greatest, strong * greatest)
    along = jnp.maximum(least_push - pull * positive, pull * positive - greatest_push)
  else:  # pull and push are equal: a factor
    upper = strong * (norm(mean - v) + rho)
    lower = weak * (norm(mean - v) - rho)
    along = weak * jnp.maximum(mean_similarity - positive, positive - greatest)
  size = strong_pull + strong
  return jnp.maximum(jnp.maximum(lower, along), 0.0), jnp.minimum(upper, size), size
