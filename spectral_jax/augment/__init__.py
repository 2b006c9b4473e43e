"""Augmentation on the device: one image to one view, a key per image."""

from spectral_jax.augment.check import check_augment
from spectral_jax.augment.views import make_augment, two_views

__all__ = ["check_augment", "make_augment", "two_views"]
