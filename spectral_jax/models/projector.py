"""The projector: the small MLP between features and the loss (Chen et al. 2020, arXiv 2002.05709, section 4.2)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import jax.numpy as jnp
from flax import linen as nn

from spectral_jax.models.resnet import batch_norm

if TYPE_CHECKING:
  from jaxtyping import Array, Float


class Projector(nn.Module):
  """`(b, f)` features to `(b, dim)` float32 projections through `layers` dense layers.

  `hidden` is the width of the layers in between; 0 makes them as wide as the features.

  Hidden layers are followed by batch normalization and ReLU; the last one by batch normalization without a shift, as in
  SimCLR's published code. The dense layers have no bias, which the normalization would cancel.
  """
  layers: int = 2
  hidden: int = 0
  dim: int = 128
  dtype: Any = jnp.float32

  @nn.compact
  def __call__(self, x: Float[Array, "b f"], train: bool) -> Float[Array, "b p"]:
    features = x.shape[-1]
    x = x.astype(self.dtype)
    for i in range(self.layers - 1):
      x = nn.Dense(self.hidden or features, use_bias=False, dtype=self.dtype, name=f"hidden{i + 1}")(x)
      x = nn.relu(batch_norm(train=train, dtype=self.dtype, name=f"norm{i + 1}")(x))
    x = nn.Dense(self.dim, use_bias=False, dtype=self.dtype, name="out")(x)
    return batch_norm(train=train, dtype=jnp.float32, use_bias=False, name="out_norm")(x)
