"""Measures of a representation, and of how alike two are, as pure functions of embeddings and labels.

Equations, and which to use when: docs/metrics.md.
"""

from spectral_jax.metrics.cka import linear_cka
from spectral_jax.metrics.collapse import cdnv, directional_cdnv, nccc_accuracy
from spectral_jax.metrics.dissimilarity import RSA, rsa, rsa_with_error
from spectral_jax.metrics.knn import knn_accuracy
from spectral_jax.metrics.neighbors import mutual_knn
from spectral_jax.metrics.sphere import alignment, uniformity
from spectral_jax.metrics.streaming import Stream, streaming_cka, streaming_rsa
from spectral_jax.metrics.uniform_law import wasserstein_uniformity
from spectral_jax.metrics.weights import weight_gap

__all__ = [
    "RSA", "Stream", "alignment", "cdnv", "directional_cdnv", "knn_accuracy", "linear_cka", "mutual_knn",
    "nccc_accuracy", "rsa", "rsa_with_error", "streaming_cka", "streaming_rsa", "uniformity", "wasserstein_uniformity",
    "weight_gap"]
