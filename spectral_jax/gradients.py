"""Closed-form gradient of each anchor's own term, and what it is made of.

With `w_j` the anchor's weights over its negatives `z_j` (softmax of `u_i.z_j / tau`, or kernel values divided by their
sum) and `m_w = sum_j w_j z_j`,

    g_i = repulsion_i m_w - attraction_i v_i.

It is the derivative of anchor i's term with respect to `u_i` (unit norm), every other row held fixed; the row of the
full gradient adds what the other anchors' terms owe to `u_i`. The table of weights and strengths is in docs/theory.md.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import jax.numpy as jnp

from spectral_jax import _anchors, _arrays, _eager

if TYPE_CHECKING:
  from jaxtyping import Array, ArrayLike, Float, Int

  from spectral_jax._types import LossName, Scalar


class AnchorTerms(NamedTuple):
  """What the anchors' gradients are made of."""
  attraction: Any           # (n,) factor of the positive
  repulsion: Any            # (n,) factor of the negatives' weighted mean
  negative_mean: Any        # (n, d) m_w
  effective_negatives: Any  # (n,) 1 / sum w^2, between 1 and m; 0 where there is no negative


@_eager.compiled(*_anchors.SETTINGS, **_anchors.CHECKS)
def anchor_terms(u: Float[ArrayLike, "n d"], v: Float[ArrayLike, "n d"], *, loss: LossName = "info_nce",
                 temperature: Scalar | None = None, labels: Int[ArrayLike, " n"] | None = None,
                 negatives: Float[ArrayLike, "k d"] | None = None, t: Scalar = 2.0, gamma: Scalar = 16.0,
                 positive_in_denominator: bool = False, bias: Scalar = -10.0,
                 prior: Scalar = 0.1) -> AnchorTerms:
  """The strengths of pull and push, the negatives' weighted mean and their effective number, for every anchor.

  `1/tau^2` times `attraction^2 tau^2 = q^2` is the law of the squared gradient norm: for InfoNCE and NT-Xent both
  strengths are `q / tau` with `q = 1 - p_positive`. Memory is linear in n.

  Args:
    u, v: `(n, d)` anchors and positives; rows are L2-normalized inside.
    loss: `"info_nce"`, `"nt_xent"`, `"dcl"`, `"dhel"`, `"kcl"` (Gaussian kernel), `"nscl"`, `"sigmoid"` or
      `"debiased"`.
    temperature: tau > 0; None (default) is the loss's own default, 0.5 for `"nt_xent"`, say. KCL has `t` instead.
    labels: `(n,)` integer classes; needed by `"nscl"`.
    negatives: `(k, d)` queue that every anchor sees besides, InfoNCE only.
    t, gamma: KCL's kernel width and weight of the repulsion; defaults as in `losses.kcl`.
    positive_in_denominator: NSCL with the positive among the terms of the denominator.
    bias: of the sigmoid loss; -10 as in `losses.sigmoid`.
    prior: of the debiased loss, in [0, 1); 0.1 as in `losses.debiased`.

  Returns:
    `AnchorTerms`. An anchor without negatives has zeros (KCL and the sigmoid loss keep their attraction).

  Raises:
    TypeError, ValueError: arrays of a wrong type or shape, an unknown loss or one without such a gradient, missing
      labels, a concrete temperature that is not positive, a prior outside [0, 1).

  >>> import jax.numpy as jnp
  >>> u = jnp.eye(3)
  >>> print(anchor_terms(u, u, loss="dcl", temperature=0.5).attraction)
  [2. 2. 2.]

  Reference: docs/theory.md, section 2.
  """
  p = _anchors.problem(u, v, loss=loss, temperature=temperature, labels=labels, negatives=negatives, t=t, gamma=gamma,
                       positive_in_denominator=positive_in_denominator, bias=bias, prior=prior)

  def terms(anchor):
    negative_mean = jnp.matmul(anchor.weights, p.bank, precision=_arrays.HIGHEST)
    return AnchorTerms(anchor.attraction, anchor.repulsion, negative_mean, _anchors.effective_negatives(anchor))

  return _anchors.map_anchors(terms, p)


@_eager.compiled("tangent", *_anchors.SETTINGS, **_anchors.CHECKS)
def anchor_gradients(u: Float[ArrayLike, "n d"], v: Float[ArrayLike, "n d"], *, loss: LossName = "info_nce",
                     temperature: Scalar | None = None, tangent: bool = False,
                     labels: Int[ArrayLike, " n"] | None = None, negatives: Float[ArrayLike, "k d"] | None = None,
                     t: Scalar = 2.0, gamma: Scalar = 16.0,
                     positive_in_denominator: bool = False, bias: Scalar = -10.0,
                     prior: Scalar = 0.1) -> Float[Array, "n d"]:
  """Gradient of each anchor's own term: `g_i = repulsion_i m_w - attraction_i v_i`.

  Args:
    u, v, loss, temperature, labels, negatives, t, gamma, positive_in_denominator, bias, prior: as for `anchor_terms`.
    tangent: subtract `(g_i.u_i) u_i`; divided by the norm before normalization that is what the encoder receives.

  Returns:
    `(n, d)`, at least float32; zeros for an anchor without negatives (but for KCL's attraction).

  Raises:
    TypeError, ValueError: as `anchor_terms`.

  >>> import jax.numpy as jnp
  >>> u = jnp.eye(2)
  >>> print(anchor_gradients(u, u, loss="dcl", temperature=1.0))
  [[-1.  1.]
   [ 1. -1.]]

  Reference: docs/theory.md, section 2.
  """
  terms = anchor_terms(u, v, loss=loss, temperature=temperature, labels=labels, negatives=negatives, t=t, gamma=gamma,
                       positive_in_denominator=positive_in_denominator, bias=bias, prior=prior)
  u, v = (_arrays.unit_rows(x) for x in _arrays.pair(u, v))
  g = terms.repulsion[:, None] * terms.negative_mean - terms.attraction[:, None] * v
  return g - jnp.sum(g * u, axis=-1, keepdims=True) * u if tangent else g
