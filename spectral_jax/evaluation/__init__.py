"""What a frozen representation is worth: nearest neighbours, linear probe, k-shot probe."""

from spectral_jax.evaluation.features import make_encoder, split_features, split_images, split_pixels, spread
from spectral_jax.evaluation.probes import few_shot_accuracy, linear_accuracy
from spectral_jax.evaluation.scores import score

__all__ = ["few_shot_accuracy", "linear_accuracy", "make_encoder", "score", "split_features", "split_images",
           "split_pixels", "spread"]
