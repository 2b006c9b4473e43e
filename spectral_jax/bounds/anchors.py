"""Bands of the anchors' gradients: how large each can be, and why."""

from functools import partial

import jax.numpy as jnp

from spectral_jax import _anchors, _arrays
from spectral_jax.bounds.apriori import apriori_band
from spectral_jax.bounds.band import LEADING, shared, widened
from spectral_jax.bounds.plugin import regression_band
from spectral_jax.bounds.terms import map_rows, row_terms, three_term_band


def anchor_band(u, v, *, loss="info_nce", temperature=0.1, kind="plugin", labels=None, negatives=None, t=2.0,
                gamma=16.0, positive_in_denominator=False, leading=LEADING):
  """Squared norm of every anchor's gradient between two proved bounds.

  `plugin` knows the weights' projections on the anchor and on the leading eigenvectors of the batch; what these leave
  is bounded by the next eigenvalue. It is never wider than the three-term band
  `max{|g.u|, (b - rho)_+} <= ||g|| <= min{b + rho, attraction + repulsion}` of `bounds.band_terms`. `apriori` needs no
  softmax: only the least, mean and greatest similarity of each anchor. One eigendecomposition serves all anchors.

  Args:
    u, v, loss, temperature, labels, negatives, t, gamma, positive_in_denominator: as for `gradients.anchor_terms`.
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
  if leading < 0:
    raise ValueError(f"leading must be at least 0, got {leading}; {LEADING} is the default")
  p = _anchors.problem(u, v, loss=loss, temperature=temperature, labels=labels, negatives=negatives, t=t, gamma=gamma)
  row = plugin_row if kind == "plugin" else partial(apriori_row, p=p, loss=loss, inside=positive_in_denominator)
  return map_rows(row, p, shared(p.bank, leading), loss, positive_in_denominator)


def plugin_row(u_i, v_i, similarities, attraction, repulsion, weights, mask, common):
  """The tighter of the regression band and the three-term band, for one anchor."""
  wide = three_term_band(row_terms(u_i, v_i, similarities, attraction, repulsion, weights, mask, common))
  norms = regression_band(u_i, v_i, similarities, attraction, repulsion, weights, mask, common)
  tight = widened(*norms, attraction + repulsion)
  return tight._replace(lower=jnp.maximum(tight.lower, wide.lower), upper=jnp.minimum(tight.upper, wide.upper))


def apriori_row(u_i, v_i, similarities, attraction, repulsion, weights, mask, common, *, p, loss, inside):
  """The band without softmax, for one anchor; the value beside it does use the weights."""
  value = row_terms(u_i, v_i, similarities, attraction, repulsion, weights, mask, common).value
  lower, upper, size = apriori_band(loss, u_i, v_i, similarities, mask > 0, p, common, inside)
  return widened(lower, value, upper, size)
