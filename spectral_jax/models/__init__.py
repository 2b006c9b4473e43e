"""Flax Linen encoders and projectors."""

from spectral_jax.models.convnet import ConvNet
from spectral_jax.models.model import Model, build_model, check_model, make_encode
from spectral_jax.models.projector import Projector
from spectral_jax.models.resnet import ResNet
from spectral_jax.models.vit import ViT

__all__ = ["ConvNet", "Model", "Projector", "ResNet", "ViT", "build_model", "check_model", "make_encode"]
