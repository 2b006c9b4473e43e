"""What one anchor sees: its negatives, their weights, and how strongly it is pulled and pushed.

For anchor i, negatives `z_1..z_m` are the rows of a `bank` that `kept` marks, `w_j` the softmax of `u_i.z_j / tau`
over them, and the gradient of the anchor's own term is `repulsion * sum_j w_j z_j - attraction * v_i`. Gradients and
bounds both start here. Everything is written for one anchor and mapped over rows, a tile of them at a time, so that
memory is linear in n.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from spectral_jax import _arrays

LOSSES = ("info_nce", "nt_xent", "dcl", "dhel", "kcl", "nscl")
BOTH_VIEWS = ("nt_xent", "dcl", "nscl")
TILE_ENTRIES = 2 ** 19  # similarities alive at once: 2 MiB of float32, so that a tile stays in a core's cache


class Problem(NamedTuple):
  """The arrays that the anchors' terms are made of; unit rows."""
  u: Any         # (n, d) anchors
  v: Any         # (n, d) positives
  bank: Any      # (N, d) rows that serve as negatives, unless excluded
  owner: Any     # (N,) an anchor sees the rows whose owner is not its own: example index, or class
  own: Any       # (n,) each anchor's owner
  scale: Any     # what multiplies an inner product in the exponent: 1/tau, or 2t
  gamma: Any     # the weight of KCL's repulsion


class Weights(NamedTuple):
  """One anchor's softmax over its negatives."""
  w: Any         # (N,) zero where excluded; sums to 1, or to 0 where there is no negative
  log_sum: Any   # log of the sum of exponentials; -inf where there is no negative
  count: Any     # m


def problem(u, v, *, loss, temperature, labels, negatives, t, gamma):
  """Checks the arguments and builds the `Problem`."""
  u, v = _arrays.pair(u, v)
  _arrays.choice("loss", loss, LOSSES)
  n = u.shape[0]
  u, v = _arrays.unit_rows(u), _arrays.unit_rows(v)
  scale = 2 * _arrays.positive("t", t) if loss == "kcl" else 1 / _arrays.positive("temperature", temperature)
  bank = jnp.concatenate([v, u]) if loss in BOTH_VIEWS else v if loss == "info_nce" else u
  own = jnp.arange(n)
  if loss == "nscl":
    if labels is None:
      raise ValueError("labels must be given for loss='nscl': (n,) integers, the class of each row")
    own = _arrays.labels_of(labels, n)
  owner = jnp.concatenate([own, own]) if loss in BOTH_VIEWS else own
  if negatives is not None:
    if loss != "info_nce":
      raise ValueError(f"negatives (a queue) go with loss='info_nce' only, got loss={loss!r}; pass negatives=None")
    queue = _arrays.matrix("negatives", negatives)
    if queue.shape[1] != u.shape[1]:
      raise ValueError(f"negatives must have shape (k, {u.shape[1]}), got {queue.shape}; encode them as u and v were")
    bank = jnp.concatenate([bank, _arrays.unit_rows(queue).astype(bank.dtype)])
    owner = jnp.concatenate([owner, jnp.full(queue.shape[0], -1, owner.dtype)])
  return Problem(u, v, bank, owner, own, scale, gamma)


def map_anchors(row, p):
  """`row(u_i, v_i, own_i)` for all anchors: stacked outputs, linear memory."""
  tile = max(1, min(p.u.shape[0], TILE_ENTRIES // p.bank.shape[0]))
  return lax.map(lambda xs: row(*xs), (p.u, p.v, p.own), batch_size=tile)


def cosines(bank, u_i):
  """`z_j . u_i` for every row of the bank."""
  return jnp.matmul(u_i, bank.T, precision=_arrays.HIGHEST)


def row_weights(similarities, kept, scale):
  """Softmax of `scale * similarities` over the negatives that `kept` marks; one anchor."""
  logits = jnp.where(kept, scale * similarities, -jnp.inf)
  count = jnp.sum(kept, dtype=similarities.dtype)
  largest = lax.stop_gradient(jnp.max(logits))
  largest = jnp.where(jnp.isfinite(largest), largest, 0.0)  # no negative at all
  exponentials = jnp.exp(logits - largest)
  total = jnp.sum(exponentials)
  some = total > 0
  w = exponentials / jnp.where(some, total, 1.0)
  log_sum = jnp.where(some, jnp.log(jnp.where(some, total, 1.0)) + largest, -jnp.inf)
  return Weights(w, log_sum, count)


def strengths(loss, positive, weights, scale, gamma, positive_in_denominator=False):
  """`(attraction, repulsion)` of one anchor; section 2 of docs/theory.md.

  Args:
    positive: `u_i.v_i`.
    weights: the anchor's `Weights`.
  An anchor without negatives has no term, hence zeros; KCL's keeps its attraction.
  """
  if loss == "kcl":
    # The kernel exp(-t r^2) at r^2 = 2 - 2c is exp(2tc - 2t), and scale = 2t.
    attraction = 2 * scale * jnp.exp(scale * (positive - 1))
    repulsion = scale * gamma * jnp.exp(weights.log_sum - scale) / jnp.maximum(weights.count, 1)
    return attraction, repulsion
  if loss in ("info_nce", "nt_xent") or (loss == "nscl" and positive_in_denominator):
    # 1 - p_positive without cancellation: vanished anchors keep their relative precision.
    share = jax.nn.sigmoid(weights.log_sum - scale * positive)
    return scale * share, scale * share
  strength = jnp.where(weights.count > 0, scale, 0.0).astype(weights.w.dtype)
  return strength, strength
