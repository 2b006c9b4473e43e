"""The three terms of a band, each with a meaning: alignment, finite-sample variance, anisotropy.

For one anchor with negatives of mean `mu` and covariance `Sigma`, and weights `w` over its m negatives:

    b    = ||attraction v - repulsion mu||      alignment: the gradient if all negatives weighed the same
    chi2 = m sum w^2 - 1 = m / m_eff - 1        finite-sample variance of the weights
    lam  = lambda_max(Sigma)                    anisotropy of the batch

    max{ |g.u|, (b - rho)_+ } <= ||g|| <= min{ b + rho, attraction + repulsion },   rho = repulsion sqrt(lam chi2).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import jax.numpy as jnp

from spectral_jax import _anchors, _eager
from spectral_jax.bounds.band import Band, deviations, norm, product, root, shared, widened

if TYPE_CHECKING:
  from jaxtyping import ArrayLike, Float, Int

  from spectral_jax._anchors import Anchor
  from spectral_jax._types import LossName, Scalar
  from spectral_jax.bounds.band import Shared


class BandTerms(NamedTuple):
  """The terms of each anchor's band; all `(n,)`."""
  attraction: Any
  repulsion: Any
  alignment: Any   # b
  variance: Any    # chi2
  anisotropy: Any  # lam, an upper bound on the anchor's own greatest eigenvalue, tight to 1/m
  along: Any       # g.u, the component that the tangent form removes
  value: Any       # ||g||


def anchor_terms(anchor: Anchor, common: Shared) -> BandTerms:
  """`BandTerms` of one anchor, from its `Anchor` and the bank's `Shared`."""
  count, mean, omega = deviations(anchor, common)
  at_mean = anchor.repulsion * mean - anchor.attraction * anchor.v
  g = at_mean + anchor.repulsion * product(omega, common.centered) / count
  top = common.top * common.centered.shape[0] / count
  return BandTerms(anchor.attraction, anchor.repulsion, alignment=norm(at_mean),
                   variance=jnp.sum(omega * omega) / count,
                   anisotropy=top, along=jnp.sum(g * anchor.u), value=norm(g))


@_eager.compiled(*_anchors.SETTINGS, **_anchors.CHECKS)
def band_terms(u: Float[ArrayLike, "n d"], v: Float[ArrayLike, "n d"], *, loss: LossName = "info_nce",
               temperature: Scalar | None = None, labels: Int[ArrayLike, " n"] | None = None,
               negatives: Float[ArrayLike, "k d"] | None = None, t: Scalar = 2.0, gamma: Scalar = 16.0,
               positive_in_denominator: bool = False, bias: Scalar = -10.0,
               prior: Scalar = 0.1) -> BandTerms:
  """The three terms of every anchor's band: alignment, finite-sample variance and anisotropy.

  Args: as for `gradients.anchor_terms`.

  Returns:
    `BandTerms`, each entry `(n,)`.

  >>> import jax.numpy as jnp
  >>> terms = band_terms(jnp.eye(4), jnp.eye(4), loss="dhel", temperature=1.0)
  >>> bool((terms.variance < 1e-12).all())  # orthogonal negatives weigh the same
  True

  Reference: docs/theory.md, section 3.
  """
  p = _anchors.problem(u, v, loss=loss, temperature=temperature, labels=labels, negatives=negatives, t=t, gamma=gamma,
                       positive_in_denominator=positive_in_denominator, bias=bias, prior=prior)
  common = shared(p.bank, 0)
  return _anchors.map_anchors(lambda anchor: anchor_terms(anchor, common), p)


def three_term_band(terms: BandTerms, anisotropy: Float[ArrayLike, " n"] | None = None) -> Band:
  """The band that the three terms make; another bound on the greatest eigenvalue may replace `terms.anisotropy`.

  >>> import jax.numpy as jnp
  >>> band = three_term_band(band_terms(jnp.eye(4), jnp.eye(4), temperature=1.0))
  >>> bool(jnp.all(band.lower <= band.value) and jnp.all(band.value <= band.upper))
  True
  """
  anisotropy = terms.anisotropy if anisotropy is None else anisotropy
  rho = terms.repulsion * root(anisotropy * terms.variance)
  size = terms.attraction + terms.repulsion
  lower = jnp.maximum(jnp.abs(terms.along), terms.alignment - rho)
  return widened(lower, terms.value, jnp.minimum(terms.alignment + rho, size), size)
