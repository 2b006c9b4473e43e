"""Measures of a representation, as pure functions of embeddings and labels."""

from spectral_jax.metrics.cka import linear_cka
from spectral_jax.metrics.knn import knn_accuracy
from spectral_jax.metrics.dissimilarity import RSA, rsa, rsa_with_error
from spectral_jax.metrics.sphere import alignment, uniformity
from spectral_jax.metrics.streaming import Stream, streaming_cka, streaming_rsa

__all__ = [
    "RSA", "Stream", "alignment", "knn_accuracy", "linear_cka", "rsa", "rsa_with_error", "streaming_cka", "streaming_rsa",
    "uniformity"]
