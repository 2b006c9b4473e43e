"""Encoder and projector together, built from the `model` section of a config."""

from __future__ import annotations

from typing import TYPE_CHECKING

import jax.numpy as jnp
from flax import linen as nn

from spectral_jax._errors import ConfigError
from spectral_jax._names import check_name
from spectral_jax.models.convnet import ConvNet
from spectral_jax.models.projector import Projector
from spectral_jax.models.resnet import BLOCKS, STEMS, ResNet
from spectral_jax.models.vit import SIZES, ViT, check_patches

if TYPE_CHECKING:
  from collections.abc import Callable

  from jaxtyping import Array, Float, PyTree

  from spectral_jax._types import Config

ENCODERS = ("convnet", *BLOCKS, *SIZES)
# Channels of each encoder's first layer at width 1, and what no layer may exceed: the widest in print has 2^13.
NARROWEST = {"convnet": 32, **dict.fromkeys(BLOCKS, 64), **{name: channels for name, (channels, _) in SIZES.items()}}
LARGEST = 2**16
DTYPES = {"float32": jnp.float32, "bfloat16": jnp.bfloat16}


class Model(nn.Module):
  """`apply(variables, x, train=...)` returns `(features (b, f), projections (b, p))`, both float32.

  No images make no rows; with `train` they are a ValueError, for they have no mean that batch normalization could use.
  """
  encoder: nn.Module
  projector: nn.Module

  def __call__(self, x: Float[Array, "b h w c"],
               train: bool = False) -> tuple[Float[Array, "b f"], Float[Array, "b p"]]:
    if train and not len(x):
      raise ValueError(f"train=True needs at least one image, got the shape {x.shape}: no images have no batch "
                       "statistics; leave the empty batch out, or encode it with train=False")
    features = self.encoder(x, train)
    return features, self.projector(features, train)


def make_encode(model: nn.Module) -> Callable[[PyTree, Array], tuple[Float[Array, "b f"], Float[Array, "b p"]]]:
  """Returns `encode(variables, images) -> (features, projections)` of a trained model, with its running statistics.

  Images `(b, h, w, c)` are uint8, or floats in [0, 1] as views are.
  """
  def encode(variables, images):
    images = jnp.asarray(images)
    pixels = images.astype(jnp.float32)
    return model.apply(variables, pixels / 255 if images.dtype == jnp.uint8 else pixels, train=False)

  return encode  # pyright: ignore[reportReturnType]  # what Linen's apply returns depends on its arguments


def build_model(config: Config) -> Model:
  """The encoder and projector that `config.model` describes.

  Args:
    config: Config with `encoder` ("convnet", "resnet18", "resnet34", "resnet50", "vit_ti", "vit_s" or "vit_b"),
      `stem` ("cifar" or "imagenet"; ResNets only), `patch_size` (ViTs only), `width` (multiplier of every encoder's
      channels), `remat` (compute blocks of ResNets and ViTs anew in the backward pass, for less memory),
      `projector_layers` (1 to 3), `projector_hidden` (0: as wide as the features), `projector_dim`, and `dtype` of the
      computation ("float32" or "bfloat16"; parameters and statistics stay float32).

  Returns:
    A Linen module; `module.apply(variables, x, train=False)` maps float images `(b, h, w, c)` to
    `(features (b, f), projections (b, p))`, both float32.

  Raises:
    ConfigError: on an unknown name or an impossible size.

  >>> import jax, ml_collections
  >>> config = ml_collections.ConfigDict(dict(
  ...     encoder="convnet", stem="cifar", patch_size=16, width=1.0, remat=False, projector_layers=2,
  ...     projector_hidden=64, projector_dim=32, dtype="float32"))
  >>> model = build_model(config)
  >>> x = jax.numpy.zeros((4, 8, 8, 1))
  >>> features, projections = jax.jit(model.apply)(jax.jit(model.init)(jax.random.key(0), x), x)
  >>> features.shape, projections.shape
  ((4, 512), (4, 32))
  """
  _check(config)
  dtype = DTYPES[config.dtype]
  if config.encoder == "convnet":
    encoder = ConvNet(config.width, dtype)
  elif config.encoder in SIZES:
    encoder = ViT(config.encoder, config.patch_size, config.width, config.remat, dtype)
  else:
    encoder = ResNet(config.encoder, config.stem, config.width, dtype, config.remat)
  return Model(encoder, Projector(config.projector_layers, config.projector_hidden, config.projector_dim, dtype))


def check_model(config: Config, image_size: int) -> None:
  """Raises ConfigError unless `build_model(config)` can be made and takes images of `image_size` pixels a side."""
  _check(config)
  if config.encoder in SIZES:
    check_patches(config.patch_size, (image_size, image_size))


def _check(config):
  check_name("model.encoder", config.encoder, ENCODERS)
  check_name("model.dtype", config.dtype, tuple(DTYPES))
  check_name("model.stem", config.stem, STEMS)
  narrowest = NARROWEST[config.encoder]
  if not narrowest * config.width > 0.5:
    raise ConfigError(f"config.model.width={config.width} leaves {config.encoder}'s first layer, {narrowest} channels "
                      f"at width 1, without any; use {1 / narrowest} or more")
  for key, channels in (("width", narrowest * config.width), ("projector_hidden", config.projector_hidden),
                        ("projector_dim", config.projector_dim)):
    if channels > LARGEST:
      raise ConfigError(f"config.model.{key}={config[key]} makes a layer of {channels:,.0f} channels; the most is "
                        f"{LARGEST:,}, and 8,192 the widest in print")
  if config.encoder in SIZES:
    widest, heads = SIZES[config.encoder]
    channels = round(widest * config.width)
    if channels % (4 * heads):
      raise ConfigError(
          f"config.model.width={config.width} gives {config.encoder} {channels} channels; they must be a multiple of "
          f"{4 * heads}, 4 for each of its {heads} heads: use a multiple of {4 * heads / widest}")
  if config.remat and config.encoder == "convnet":
    raise ConfigError("config.model.remat is for ResNets and ViTs, got encoder='convnet', which has no blocks to "
                      "compute anew; set it to False")
  if config.projector_dim < 1 or config.projector_hidden < 0:
    raise ConfigError(f"config.model.projector_dim must be positive and projector_hidden 0 or more, got "
                      f"{config.projector_dim} and {config.projector_hidden}")
  if config.projector_layers not in (1, 2, 3):
    raise ConfigError(f"config.model.projector_layers must be 1, 2 or 3, got {config.projector_layers}")
