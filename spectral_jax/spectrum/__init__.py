"""Spectra of embeddings: eigenvalues, effective ranks and whitening."""

from spectral_jax.spectrum.ranks import effective_rank, effective_ranks, eigenvalues
from spectral_jax.spectrum.whitening import whiten

__all__ = ["effective_rank", "effective_ranks", "eigenvalues", "whiten"]
