"""Measures of a representation, as pure functions of embeddings and labels."""

from spectral_jax.metrics.knn import knn_accuracy
from spectral_jax.metrics.sphere import alignment, uniformity

__all__ = ["alignment", "knn_accuracy", "uniformity"]
