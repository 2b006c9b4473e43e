"""Residual networks (He et al. 2016, arXiv 1512.03385), without the classification layer.

Two stems: `"imagenet"` is the paper's 7x7 convolution of stride 2 and 3x3 max pooling; `"cifar"` is one 3x3 convolution
of stride 1 for images of about 32x32 (Chen et al. 2020, arXiv 2002.05709, appendix B.9).
"""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING, Any

import jax.numpy as jnp
from flax import linen as nn

from spectral_jax.models.convolution import convolution

if TYPE_CHECKING:
  from jax.typing import DTypeLike
  from jaxtyping import Array, Float

BLOCKS = {"resnet18": (2, 2, 2, 2), "resnet34": (3, 4, 6, 3), "resnet50": (3, 4, 6, 3)}
STEMS = ("cifar", "imagenet")


def batch_norm(*, train: bool, dtype: DTypeLike, **kwargs: Any) -> nn.BatchNorm:
  """Batch normalization over the global batch: under jit the mean over a sharded axis spans every device.

  Flax keeps the scale, shift and running statistics in float32 and reduces in float32 whatever `dtype` is.
  """
  return nn.BatchNorm(use_running_average=not train, momentum=0.9, epsilon=1e-5, dtype=dtype, **kwargs)


class BasicBlock(nn.Module):
  """Two 3x3 convolutions and a shortcut; output has `features` channels."""
  features: int
  stride: int
  dtype: Any = jnp.float32
  expansion = 1

  @nn.compact
  def __call__(self, x: Float[Array, "b h w c"], train: bool) -> Float[Array, "b h w c"]:
    norm = functools.partial(batch_norm, train=train, dtype=self.dtype)
    y = nn.relu(norm()(convolution(self.features, 3, self.stride, dtype=self.dtype)(x)))
    # The last scale starts at zero, so a block starts as its shortcut (Goyal et al. 2017, arXiv 1706.02677).
    y = norm(scale_init=nn.initializers.zeros)(convolution(self.features, 3, dtype=self.dtype)(y))
    return nn.relu(_shortcut(x, y.shape[-1], self.stride, norm, self.dtype) + y)


class BottleneckBlock(nn.Module):
  """1x1, 3x3 (with the stride) and 1x1 convolutions and a shortcut; output has `4 * features` channels."""
  features: int
  stride: int
  dtype: Any = jnp.float32
  expansion = 4

  @nn.compact
  def __call__(self, x: Float[Array, "b h w c"], train: bool) -> Float[Array, "b h w c"]:
    norm = functools.partial(batch_norm, train=train, dtype=self.dtype)
    y = nn.relu(norm()(convolution(self.features, 1, dtype=self.dtype)(x)))
    y = nn.relu(norm()(convolution(self.features, 3, self.stride, dtype=self.dtype)(y)))
    y = norm(scale_init=nn.initializers.zeros)(convolution(4 * self.features, 1, dtype=self.dtype)(y))
    return nn.relu(_shortcut(x, y.shape[-1], self.stride, norm, self.dtype) + y)


def _shortcut(x, features, stride, norm, dtype):
  if stride == 1 and x.shape[-1] == features:
    return x
  return norm(name="shortcut_norm")(convolution(features, 1, stride, dtype=dtype, name="shortcut")(x))


class ResNet(nn.Module):
  """`(b, h, w, c)` images to `(b, f)` float32 features, f = 512 * width (2048 * width for ResNet-50).

  `remat` computes each block anew in the backward pass: its input alone is kept, for one more forward pass.
  """
  depth: str = "resnet18"
  stem: str = "cifar"
  width: float = 1.0
  dtype: Any = jnp.float32
  remat: bool = False

  @nn.compact
  def __call__(self, x: Float[Array, "b h w c"], train: bool) -> Float[Array, "b f"]:
    block = BottleneckBlock if self.depth == "resnet50" else BasicBlock
    if self.remat:
      block = nn.remat(block, static_argnums=(2,))  # `train`, counted from self
    base = round(64 * self.width)
    x = x.astype(self.dtype)
    if self.stem == "cifar":
      x = convolution(base, 3, dtype=self.dtype, name="stem")(x)
    else:
      x = convolution(base, 7, 2, dtype=self.dtype, name="stem")(x)
    x = nn.relu(batch_norm(train=train, dtype=self.dtype, name="stem_norm")(x))
    if self.stem == "imagenet":
      x = nn.max_pool(x, (3, 3), (2, 2), padding=((1, 1), (1, 1)))  # pyright: ignore[reportArgumentType]
    for stage, count in enumerate(BLOCKS[self.depth]):
      for i in range(count):
        stride = 2 if stage > 0 and i == 0 else 1
        x = block(base * 2**stage, stride, self.dtype, name=f"stage{stage + 1}_block{i + 1}")(x, train)
    return jnp.mean(x.astype(jnp.float32), axis=(1, 2))
