"""Bands of the anchors' gradients: how large each can be, and why."""

from __future__ import annotations

from typing import TYPE_CHECKING

import jax.numpy as jnp

from spectral_jax import _anchors, _arrays, _eager
from spectral_jax.bounds.apriori import apriori_band
from spectral_jax.bounds.band import LEADING, Band, shared, widened
from spectral_jax.bounds.plugin import regression_band
from spectral_jax.bounds.terms import anchor_terms, three_term_band

if TYPE_CHECKING:
  from typing import Literal

  from jaxtyping import ArrayLike, Float, Int

  from spectral_jax._anchors import Anchor
  from spectral_jax._types import LossName, Scalar
  from spectral_jax.bounds.band import Shared


@_eager.compiled("kind", "leading", *_anchors.SETTINGS, **_anchors.CHECKS)
def anchor_band(u: Float[ArrayLike, "n d"], v: Float[ArrayLike, "n d"], *, loss: LossName = "info_nce",
                temperature: Scalar | None = None, kind: Literal["plugin", "apriori"] = "plugin",
                labels: Int[ArrayLike, " n"] | None = None, negatives: Float[ArrayLike, "k d"] | None = None,
                t: Scalar = 2.0, gamma: Scalar = 16.0, positive_in_denominator: bool = False,
                bias: Scalar = -10.0, prior: Scalar = 0.1, leading: int = LEADING) -> Band:
  """Squared norm of every anchor's gradient between two proved bounds.

  `plugin` knows the weights' projections on the anchor and on the leading eigenvectors of the batch; what these leave
  is bounded by the next eigenvalue. It is never wider than the three-term band
  `max{|g.u|, (b - rho)_+} <= ||g|| <= min{b + rho, attraction + repulsion}` of `bounds.band_terms`. `apriori` needs no
  softmax: only the least, mean and greatest similarity of each anchor. One eigendecomposition serves all anchors.

  Args:
    u, v, loss, temperature, labels, negatives, t, gamma, positive_in_denominator, bias, prior: as for
      `gradients.anchor_terms`.
    kind: `"plugin"` (default) or `"apriori"`.
    leading: eigenvectors along which the plug-in band is exact; 8 by default (docs/theory.md has the tightness for
      others). With `leading >= d - 1` the band closes on the value.

  Returns:
    `Band(lower, value, upper)`, each `(n,)`, squared norms; zeros for an anchor without negatives (but KCL's pull).
    Bounds are widened by 16 machine epsilons of `attraction + repulsion`, so that they hold in the arithmetic used.

  Raises:
    TypeError, ValueError: as `gradients.anchor_terms`; an unknown `kind`; a negative `leading`.

  >>> import jax
  >>> u, v = jax.random.normal(jax.random.key(0), (2, 32, 8))
  >>> band = anchor_band(u, v, temperature=0.2)
  >>> bool((band.lower <= band.value).all() and (band.value <= band.upper).all())
  True

  Reference: docs/theory.md, section 3.
  """
  _arrays.choice("kind", kind, ("plugin", "apriori"))
  if kind == "apriori" and loss == "debiased":
    raise ValueError("loss='debiased' has no a-priori band: its strengths need not grow with the similarities; use "
                     "kind='plugin'")
  if leading < 0:
    raise ValueError(f"leading must be at least 0, got {leading}; {LEADING} is the default")
  p = _anchors.problem(u, v, loss=loss, temperature=temperature, labels=labels, negatives=negatives, t=t, gamma=gamma,
                       positive_in_denominator=positive_in_denominator, bias=bias, prior=prior)
  common = shared(p.bank, leading)
  if kind == "plugin":
    return _anchors.map_anchors(lambda anchor: plugin_band(anchor, common), p)

  def band(anchor):
    lower, upper, size = apriori_band(anchor, p, common)
    return widened(lower, anchor_terms(anchor, common).value, upper, size)  # the value alone uses the softmax

  return _anchors.map_anchors(band, p)


def plugin_band(anchor: Anchor, common: Shared) -> Band:
  """The tighter of the regression band and the three-term band, for one anchor."""
  wide = three_term_band(anchor_terms(anchor, common))
  tight = widened(*regression_band(anchor, common), anchor.attraction + anchor.repulsion)
  return tight._replace(lower=jnp.maximum(tight.lower, wide.lower), upper=jnp.minimum(tight.upper, wide.upper))
