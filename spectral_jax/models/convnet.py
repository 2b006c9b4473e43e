"""A small convolutional encoder for tiny images (8x8 digits): three 3x3 convolutions, the last two of stride 2."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import jax.numpy as jnp
from flax import linen as nn

from spectral_jax.models.convolution import convolution
from spectral_jax.models.resnet import batch_norm

if TYPE_CHECKING:
  from jaxtyping import Array, Float


class ConvNet(nn.Module):
  """`(b, h, w, c)` images to `(b, f)` float32 features; channels are 32, 64 and 128 times `width`.

  The last map is flattened, not averaged: of an 8x8 image only 2x2 positions are left, and where a stroke lies matters.
  Larger images are averaged down to 2x2 first.
  """
  width: float = 1.0
  dtype: Any = jnp.float32

  @nn.compact
  def __call__(self, x: Float[Array, "b h w c"], train: bool) -> Float[Array, "b f"]:
    x = x.astype(self.dtype)
    for i, channels in enumerate((32, 64, 128)):
      x = convolution(round(channels * self.width), 3, 1 if i == 0 else 2, dtype=self.dtype, name=f"conv{i + 1}")(x)
      x = nn.relu(batch_norm(train=train, dtype=self.dtype, name=f"norm{i + 1}")(x))
    window = (max(1, x.shape[1] // 2), max(1, x.shape[2] // 2))
    x = nn.avg_pool(x.astype(jnp.float32), window, window)
    return x.reshape(len(x), math.prod(x.shape[1:]))  # -1 would have no answer for no images
