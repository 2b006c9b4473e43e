"""Vision transformers (Dosovitskiy et al. 2021, arXiv 2010.11929), without the classification layer.

As in Beyer et al. 2022 (arXiv 2205.01580): normalization before each branch, fixed sine and cosine embeddings of a
patch's row and column, and the mean over patches instead of a class token. Fixed embeddings are chosen since they leave
nothing to learn from small data and fit any number of patches.
"""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING, Any

import jax.numpy as jnp
from flax import linen as nn

from spectral_jax._errors import ConfigError

if TYPE_CHECKING:
  from collections.abc import Sequence

  from jaxtyping import Array, Float

# Channels and heads; all have 12 blocks (Touvron et al. 2021, arXiv 2012.12877, for Ti and S).
SIZES = {"vit_ti": (192, 3), "vit_s": (384, 6), "vit_b": (768, 12)}
BLOCKS = 12

_dense = functools.partial(nn.Dense, kernel_init=nn.initializers.xavier_uniform())


class TransformerBlock(nn.Module):
  """Self-attention and a perceptron of 4 times the width with GELU, each `x + f(norm(x))`; `(b, n, d)` to the same."""
  heads: int
  dtype: Any = jnp.float32

  @nn.compact
  def __call__(self, x: Float[Array, "b n d"]) -> Float[Array, "b n d"]:
    width = x.shape[-1]
    norm = functools.partial(nn.LayerNorm, epsilon=1e-6, dtype=self.dtype)
    attention = nn.MultiHeadDotProductAttention(
        self.heads, dtype=self.dtype, kernel_init=nn.initializers.xavier_uniform(), force_fp32_for_softmax=True,
        name="attention")
    x = x + attention(norm(name="attention_norm")(x))
    y = nn.gelu(_dense(4 * width, dtype=self.dtype, name="expand")(norm(name="mlp_norm")(x)))
    return x + _dense(width, dtype=self.dtype, name="contract")(y)


class ViT(nn.Module):
  """`(b, h, w, c)` images to `(b, f)` float32 features, f = 192, 384 or 768 times `width`.

  `remat` computes each block anew in the backward pass: what is kept shrinks from all that its layers made to one
  `(b, n, f)` array a block, for one more forward pass.
  """
  size: str = "vit_s"
  patch_size: int = 16
  width: float = 1.0
  remat: bool = False
  dtype: Any = jnp.float32

  @nn.compact
  def __call__(self, x: Float[Array, "b h w c"], train: bool) -> Float[Array, "b f"]:
    del train  # nothing here depends on the batch or on chance
    check_patches(self.patch_size, x.shape[1:3])
    channels, heads = SIZES[self.size]
    channels = round(channels * self.width)
    x = _patches(x.astype(self.dtype), self.patch_size)
    rows, columns = x.shape[1:3]
    x = _dense(channels, dtype=self.dtype, name="embed")(x).reshape(len(x), rows * columns, channels)
    x = x + sincos2d(rows, columns, channels).astype(self.dtype)
    block = nn.remat(TransformerBlock) if self.remat else TransformerBlock
    for i in range(BLOCKS):
      x = block(heads, self.dtype, name=f"block{i + 1}")(x)
    x = nn.LayerNorm(epsilon=1e-6, dtype=jnp.float32, name="norm")(x)
    return jnp.mean(x, axis=1)


def check_patches(patch_size: int, image: Sequence[int]) -> None:
  """Raises ConfigError unless patches of `patch_size` cover an image of `(height, width)`."""
  if patch_size < 1 or any(side % patch_size for side in image):
    raise ConfigError(f"config.model.patch_size={patch_size} does not divide images of {image[0]}x{image[1]} pixels; "
                      f"use a divisor, or another config.data.image_size")


def sincos2d(rows: int, columns: int, channels: int) -> Float[Array, "n d"]:
  """Embeddings `(rows * columns, channels)` of positions (y, x) on a grid.

  `[sin(x w), cos(x w), sin(y w), cos(y w)]` with w_k = 10000^(-k / (q - 1)) for k < q = channels / 4.

  >>> [f"{x:.2f}" for x in sincos2d(1, 2, 8)[1]]
  ['0.84', '0.00', '0.54', '1.00', '0.00', '0.00', '1.00', '1.00']
  """
  quarter = channels // 4
  frequencies = 10_000.0 ** (-jnp.arange(quarter) / max(quarter - 1, 1))
  y, x = jnp.meshgrid(jnp.arange(rows), jnp.arange(columns), indexing="ij")
  angles = [position.reshape(-1, 1) * frequencies for position in (x, y)]
  return jnp.concatenate([f(angle) for angle in angles for f in (jnp.sin, jnp.cos)], axis=-1)


def _patches(x, size):
  """`(b, h / size, w / size, size size c)`: what is in each patch, row by row."""
  b, height, width, channels = x.shape
  x = x.reshape(b, height // size, size, width // size, size, channels).swapaxes(2, 3)
  return x.reshape(b, height // size, width // size, size * size * channels)
