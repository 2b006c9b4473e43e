"""The a-priori band of one anchor: no softmax, only the extreme and the mean similarity.

With `D = max_j u.z_j - min_j u.z_j` and `scale = 1/tau`, Kantorovich's inequality bounds the variance of the weights,
`chi2 <= min{sinh^2(scale D / 2), m - 1}`; the sum of exponentials lies between `m exp` of the extreme logits and, by
Jensen, above `m exp` of the mean one; and the weighted mean similarity between the mean and the greatest one, since
the weights grow with the similarity.
"""

import jax.numpy as jnp

from spectral_jax import _anchors
from spectral_jax.bounds.band import norm, product, root


def apriori_band(loss, u_i, v_i, similarities, kept, p, common, positive_in_denominator):
  """`(lower, upper)` of one anchor's gradient norm, and the greatest length before cancellation."""
  mask = kept.astype(p.u.dtype)
  total = jnp.sum(mask)
  count = jnp.maximum(total, 1)
  mean_similarity = jnp.sum(similarities * mask) / count
  greatest = jnp.where(total > 0, jnp.max(jnp.where(kept, similarities, -jnp.inf)), 0.0)
  least = jnp.where(total > 0, jnp.min(jnp.where(kept, similarities, jnp.inf)), 0.0)
  spread = jnp.minimum(p.scale * (greatest - least) / 2, 40.0)  # sinh^2 passes every m - 1 long before
  chi2 = jnp.minimum(jnp.sinh(spread) ** 2, count - 1)
  rho = root(common.top * common.centred.shape[0] / count * chi2)
  mean = common.centre + product(mask, common.centred) / count
  positive = jnp.sum(u_i * v_i)

  def extreme(similarity):
    log_sum = jnp.where(total > 0, p.scale * similarity + jnp.log(count), -jnp.inf)
    return _anchors.strengths(loss, positive, _anchors.Weights(mask, log_sum, total), p.scale, p.gamma,
                              positive_in_denominator)

  (weak_pull, weak), (strong_pull, strong) = extreme(mean_similarity), extreme(greatest)
  if loss == "kcl":  # the pull does not depend on the negatives
    ends = norm(weak * mean - weak_pull * v_i), norm(strong * mean - weak_pull * v_i)
    upper = jnp.maximum(*ends) + strong * rho
    # Nearest point of the segment repulsion * mean, weak <= repulsion <= strong, to the pull.
    squares = jnp.sum(mean * mean)
    nearest = jnp.clip(weak_pull * jnp.sum(mean * v_i) / jnp.where(squares > 0, squares, 1.0), weak, strong)
    lower = norm(nearest * mean - weak_pull * v_i) - strong * rho
    low, high = (jnp.minimum(weak * s, strong * s) if s is mean_similarity else jnp.maximum(weak * s, strong * s)
                 for s in (mean_similarity, greatest))
    along = jnp.maximum(low - weak_pull * positive, weak_pull * positive - high)
  else:  # pull and push are equal: a factor
    upper = strong * (norm(mean - v_i) + rho)
    lower = weak * (norm(mean - v_i) - rho)
    along = weak * jnp.maximum(mean_similarity - positive, positive - greatest)
  size = strong_pull + strong
  return jnp.maximum(jnp.maximum(lower, along), 0.0), jnp.minimum(upper, size), size
