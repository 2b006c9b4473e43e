"""Bands that hold every anchor's gradient, and the losses' exact optima.

Statements and proofs: docs/theory.md, sections 3 and 4.
"""

from spectral_jax.bounds.anchors import anchor_band
from spectral_jax.bounds.band import Band
from spectral_jax.bounds.batch import batch_band
from spectral_jax.bounds.drift import (
    anchor_loss_gap_bound,
    cka_lower_bound,
    loss_gap_bound,
    rsa_lower_bound,
    similarity_drift_bound,
    weight_drift_bound,
)
from spectral_jax.bounds.optima import optimum
from spectral_jax.bounds.terms import BandTerms, band_terms, three_term_band

__all__ = [
    "Band", "BandTerms", "anchor_band", "anchor_loss_gap_bound", "band_terms", "batch_band", "cka_lower_bound",
    "loss_gap_bound", "optimum", "rsa_lower_bound", "similarity_drift_bound", "three_term_band", "weight_drift_bound"]
