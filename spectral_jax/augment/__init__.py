"""Augmentation on the device: one image to one view, a key per image."""

from spectral_jax.augment.views import make_augment, two_views

__all__ = ["make_augment", "two_views"]
