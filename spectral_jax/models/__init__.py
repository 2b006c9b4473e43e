"""Flax Linen encoders and projectors."""

from spectral_jax.models.convnet import ConvNet
from spectral_jax.models.model import Model, build_model
from spectral_jax.models.projector import Projector
from spectral_jax.models.resnet import ResNet

__all__ = ["ConvNet", "Model", "Projector", "ResNet", "build_model"]
