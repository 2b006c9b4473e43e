"""Data sets: digits that come with a package, folders of images and TensorFlow Datasets, resident or streamed."""

from spectral_jax.data.dataset import Dataset, Split
from spectral_jax.data.open import check_data, open_dataset

__all__ = ["Dataset", "Split", "check_data", "open_dataset"]
