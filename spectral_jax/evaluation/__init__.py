"""What a frozen representation is worth: nearest neighbors, linear probe, k-shot probe."""

from spectral_jax.evaluation.alignment import alignment
from spectral_jax.evaluation.features import split_features, split_images, split_pixels, spread
from spectral_jax.evaluation.probes import few_shot_accuracy, linear_accuracy
from spectral_jax.evaluation.scores import SCORES, few_labels, score

__all__ = ["SCORES", "alignment", "few_labels", "few_shot_accuracy", "linear_accuracy", "score", "split_features",
           "split_images", "split_pixels", "spread"]
