"""What one anchor sees: its negatives, their weights, and how strongly it is pulled and pushed.

For anchor i, negatives `z_1..z_m` are the rows of a `bank` that its `mask` marks, `w_j` the softmax of `u_i.z_j / tau`
over them, and the gradient of the anchor's own term is `repulsion * sum_j w_j z_j - attraction * v_i`. Gradients and
bounds both start here. Everything is written for one anchor and mapped over rows, a tile of them at a time, so that
memory is linear in n.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from spectral_jax import _arrays
from spectral_jax._defaults import temperature_of
from spectral_jax.losses._hard import debias

if TYPE_CHECKING:
  from jaxtyping import ArrayLike

  from spectral_jax._types import Scalar

LOSSES = ("info_nce", "nt_xent", "dcl", "dhel", "kcl", "nscl", "sigmoid", "debiased")
BOTH_VIEWS = ("nt_xent", "dcl", "nscl", "debiased")
OTHER_VIEW = ("info_nce", "sigmoid")
# Losses whose anchors have no gradient of the form that everything here speaks of, and why.
NOT_COVERED = {
    "supcon": "an anchor has several positives",
    "hard_negative": "its weights of negatives may be negative, so that their mean can lie outside the unit ball",
    "spectral_contrastive": "its negatives have weights of both signs, whose sum may be 0",
    "global_contrastive": "it depends on earlier batches: the gradient is that of loss='dcl' times g/a, the batch's "
                          "estimate over the average, and so is its band"}
TILE_ENTRIES = 2 ** 19  # similarities alive at once: 2 MiB of float32, so that a tile stays in a core's cache


# How the public functions on top of this are compiled, see `_eager.compiled`: which arguments
# are not arrays, and which values are allowed.
SETTINGS = ("loss", "positive_in_denominator")
CHECKS = {"temperature": _arrays.positive_or_none, "t": _arrays.positive, "bias": _arrays.number,
          "prior": lambda name, x: _arrays.number(name, x, 0.0, 1.0)}


class Problem(NamedTuple):
  """The arrays that the anchors' terms are made of, and which terms these are; unit rows."""
  u: Any         # (n, d) anchors
  v: Any         # (n, d) positives
  bank: Any      # (N, d) rows that serve as negatives, unless excluded
  owner: Any     # (N,) an anchor sees the rows whose owner is not its own: example index, or class
  own: Any       # (n,) each anchor's owner
  scale: Any     # what multiplies an inner product in the exponent: 1/tau, or 2t
  gamma: Any     # the weight of KCL's repulsion
  loss: str
  positive_in_denominator: bool  # NSCL's
  bias: Any      # the sigmoid loss's
  prior: Any     # the debiased loss's


class Anchor(NamedTuple):
  """One anchor, the bank as it sees it, and its strengths."""
  u: Any             # (d,)
  v: Any             # (d,) its positive
  similarities: Any  # (N,) to the rows of the bank
  mask: Any          # (N,) 1 where a row is one of its negatives, else 0
  count: Any         # m, the number of its negatives
  weights: Any       # (N,) softmax over the negatives: sums to 1, or to 0 where there is none
  log_sum: Any       # log of the sum of exponentials; -inf where there is no negative
  attraction: Any    # factor of the positive
  repulsion: Any     # factor of the negatives' weighted mean


def problem(u: ArrayLike, v: ArrayLike, *, loss: str, temperature: Scalar | None, labels: ArrayLike | None = None,
            negatives: ArrayLike | None = None, t: Scalar = 1.0, gamma: Scalar = 1.0,
            positive_in_denominator: bool = False, bias: Scalar = -10.0, prior: Scalar = 0.1) -> Problem:
  """Checks the arguments and builds the `Problem`."""
  u, v = _arrays.pair(u, v)
  if loss in NOT_COVERED:
    raise ValueError(f"loss={loss!r} has no closed-form anchor gradient here: {NOT_COVERED[loss]}. "
                     f"Those that have are {', '.join(map(repr, LOSSES))}")
  _arrays.choice("loss", loss, LOSSES)
  n = u.shape[0]
  u, v = _arrays.unit_rows(u), _arrays.unit_rows(v)
  if loss == "kcl":
    scale = 2 * _arrays.positive("t", t)
  else:
    scale = 1 / _arrays.positive("temperature", temperature_of(loss, temperature))
  bank = jnp.concatenate([v, u]) if loss in BOTH_VIEWS else v if loss in OTHER_VIEW else u
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
  return Problem(u, v, bank, owner, own, scale, gamma, loss, positive_in_denominator, _arrays.number("bias", bias),
                 _arrays.number("prior", prior, 0.0, 1.0))


def map_anchors(function, p):
  """`function(anchor)` for the `Anchor` of every row of `p.u`: stacked outputs, linear memory."""
  tile = max(1, min(p.u.shape[0], TILE_ENTRIES // p.bank.shape[0]))
  return lax.map(lambda row: function(_anchor(p, *row)), (p.u, p.v, p.own), batch_size=tile)


def _anchor(p, u_i, v_i, own):
  kept = p.owner != own
  similarities = jnp.matmul(u_i, p.bank.T, precision=_arrays.HIGHEST)
  mask = kept.astype(similarities.dtype)
  count = jnp.sum(mask)
  weights, log_sum = _softmax(jnp.where(kept, logits(p, similarities), -jnp.inf), count > 0)
  attraction, repulsion = strengths(p, jnp.sum(u_i * v_i), log_sum, count)
  return Anchor(u_i, v_i, similarities, mask, count, weights, log_sum, attraction, repulsion)


def logits(p, similarities):
  """Logarithms of negatives' weights by their similarities; they grow with them, at most `p.scale` times as fast."""
  scores = p.scale * similarities
  return jax.nn.log_sigmoid(scores + p.bias) if p.loss == "sigmoid" else scores


def _softmax(scores, some):
  """Weights and log of the sum of exponentials; zeros and -inf where not `some`, that is where all scores are -inf."""
  largest = jnp.where(some, lax.stop_gradient(jnp.max(scores)), 0.0)
  exponentials = jnp.exp(scores - largest)
  total = jnp.where(some, jnp.sum(exponentials), 1.0)
  return exponentials / total, jnp.where(some, jnp.log(total) + largest, -jnp.inf)


def strengths(p, positive, log_sum, count):
  """`(attraction, repulsion)` of one anchor; section 2 of docs/theory.md.

  An anchor without negatives has no term, hence zeros; those of KCL and of the sigmoid loss keep their attraction.

  Args:
    p: the `Problem`, for what holds for all anchors.
    positive: `u_i.v_i`.
    log_sum, count: as in `Anchor`.
  """
  if p.loss == "kcl":
    # The kernel exp(-t r^2) at r^2 = 2 - 2c is exp(2tc - 2t), and scale = 2t.
    attraction = 2 * p.scale * jnp.exp(p.scale * (positive - 1))
    repulsion = p.scale * p.gamma * jnp.exp(log_sum - p.scale) / jnp.maximum(count, 1)
    return attraction, repulsion
  if p.loss == "sigmoid":
    return p.scale * jax.nn.sigmoid(-p.scale * positive - p.bias), p.scale * jnp.exp(log_sum)
  if p.loss == "debiased":
    return _debiased(p, p.scale * positive, log_sum, count)
  if p.loss in ("info_nce", "nt_xent") or (p.loss == "nscl" and p.positive_in_denominator):
    # 1 - p_positive without cancellation: vanished anchors keep their relative precision.
    q = jax.nn.sigmoid(log_sum - p.scale * positive)
    return p.scale * q, p.scale * q
  strength = jnp.where(count > 0, p.scale, 0.0).astype(log_sum.dtype)
  return strength, strength


def _debiased(p, positive, log_sum, count):
  """With G the corrected sum, `attraction = repulsion = S/((1 - prior)(e^s + G)) / tau`; at G's floor the push is 0."""
  some = count > 0
  energy, log_count = jnp.where(some, log_sum, 0.0), jnp.log(jnp.maximum(count, 1))
  least = log_count - p.scale
  corrected = debias(energy, positive + log_count, p.prior, least)
  floored = (p.prior > 0) & (corrected <= least)
  push = jnp.exp(energy - jnp.log1p(-p.prior) - jnp.logaddexp(positive, corrected))
  pull = jnp.where(floored, jax.nn.sigmoid(corrected - positive), push)
  return tuple(p.scale * jnp.where(some, x, 0.0) for x in (pull, jnp.where(floored, 0.0, push)))


def effective_negatives(anchor):
  """`1 / sum w^2`, between 1 and m; 0 where there is no negative."""
  some = anchor.count > 0
  return jnp.where(some, 1 / jnp.where(some, jnp.sum(anchor.weights * anchor.weights), 1.0), 0.0)
