"""Data sets: scikit-learn's digits, folders of images and TensorFlow Datasets, resident or streamed."""

from spectral_jax.data.dataset import Dataset, Split
from spectral_jax.data.open import open_dataset

__all__ = ["Dataset", "Split", "open_dataset"]
