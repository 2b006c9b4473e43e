"""Bands that hold every anchor's gradient, and the losses' exact optima.

Statements and proofs: docs/theory.md, sections 3 and 4.
"""

from spectral_jax.bounds.anchors import anchor_band
from spectral_jax.bounds.band import Band
from spectral_jax.bounds.batch import batch_band
from spectral_jax.bounds.optima import optimum
from spectral_jax.bounds.terms import BandTerms, band_terms, three_term_band

__all__ = ["Band", "BandTerms", "anchor_band", "band_terms", "batch_band", "optimum", "three_term_band"]
