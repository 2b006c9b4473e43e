"""The random resized crop (Szegedy et al. 2015, arXiv 1409.4842): where it lies, and cutting it out on the device.

A box is `(top, left, height, width)` in pixels. Its share of the image's area is uniform in `scale` and the logarithm
of its aspect ratio uniform in log(3/4), log(4/3). Of ten draws the first that fits is taken; if none fits, the whole
image, narrowed to a permitted ratio, is. `box` is written for both array modules: the streaming path computes boxes
with NumPy before an image is decoded, the resident path with JAX on the device.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import jax
import jax.numpy as jnp
import numpy as np

if TYPE_CHECKING:
  from typing import Any

  from jaxtyping import Array, Float, PRNGKeyArray, Shaped

TRIES = 10
DRAWS = 2 * TRIES + 2   # uniform numbers a box is made of
RATIO = (3 / 4, 4 / 3)


def box(uniforms: Any, height: Any, width: Any, scale: tuple[float, float], *, xp: Any = jnp) -> Any:
  """The crop that `DRAWS` uniform numbers stand for.

  Args:
    uniforms: `(..., DRAWS)` in [0, 1): areas and ratios of the tries, then the position down and across.
    height, width: `(...)` size of the image in pixels.
    scale: `(lo, hi)`, the crop's share of the area; SimCLR's is (0.08, 1).
    xp: `jax.numpy` or `numpy`.

  Returns:
    `(..., 4)` whole numbers as float32: top, left, height, width, inside the image.

  >>> box(np.full(DRAWS, 0.5), 100, 100, (0.25, 0.25), xp=np)
  array([25., 25., 50., 50.], dtype=float32)
  """
  height, width = xp.asarray(height)[..., None], xp.asarray(width)[..., None]
  area = height * width * (scale[0] + (scale[1] - scale[0]) * uniforms[..., :TRIES])
  low, high = np.log(RATIO)
  ratio = xp.exp(low + (high - low) * uniforms[..., TRIES:2 * TRIES])
  w, h = xp.round(xp.sqrt(area * ratio)), xp.round(xp.sqrt(area / ratio))
  fits = (w >= 1) & (h >= 1) & (w <= width) & (h <= height)
  first = xp.argmax(fits, axis=-1)[..., None]
  any_fits = xp.any(fits, axis=-1)
  wide = xp.clip(width, 1, xp.round(height * RATIO[1]))[..., 0]
  tall = xp.clip(height, 1, xp.round(width / RATIO[0]))[..., 0]
  w = xp.where(any_fits, xp.take_along_axis(w, first, axis=-1)[..., 0], wide)
  h = xp.where(any_fits, xp.take_along_axis(h, first, axis=-1)[..., 0], tall)
  down, across = uniforms[..., -2], uniforms[..., -1]
  # Without a fit the box lies in the middle.
  top = xp.where(any_fits, xp.floor(down * (height[..., 0] - h + 1)), xp.floor((height[..., 0] - h) / 2))
  left = xp.where(any_fits, xp.floor(across * (width[..., 0] - w + 1)), xp.floor((width[..., 0] - w) / 2))
  return xp.stack([top, left, h, w], axis=-1).astype(xp.float32)


def cut(image: Shaped[Array, "h w c"], box: Any, size: int) -> Float[Array, "size size c"]:
  """Cuts `box` out of an image `(h, w, c)` and resizes it to `(size, size, c)`, bilinear with antialiasing.

  >>> image = jnp.arange(16.0).reshape(4, 4, 1)
  >>> cut(image, jnp.array([1.0, 2.0, 2.0, 2.0]), 2)[..., 0].tolist()
  [[6.0, 7.0], [10.0, 11.0]]
  """
  top, left, height, width = box
  down = _weights(image.shape[0], top, height, size)
  across = _weights(image.shape[1], left, width, size)
  return jnp.einsum("iy,jx,yxc->ijc", down, across, image, precision=jax.lax.Precision.HIGHEST)


def _weights(n, start, length, size):
  """`(size, n)`: how much each of n pixels counts in each of `size` equal parts of [start, start + length)."""
  step = length / size
  center = start + step * (jnp.arange(size) + 0.5) - 0.5
  pixel = jnp.arange(n)
  # A triangle as wide as the step when shrinking, so that nothing is skipped; pixels outside the box do not count.
  weight = jnp.maximum(0, 1 - jnp.abs(center[:, None] - pixel) / jnp.maximum(step, 1))
  weight = jnp.where((pixel >= start) & (pixel < start + length), weight, 0)
  return weight / jnp.sum(weight, axis=1, keepdims=True)


def random_crop(key: PRNGKeyArray, image: Shaped[Array, "h w c"], size: int,
                scale: tuple[float, float]) -> Float[Array, "size size c"]:
  """One random resized crop of an image `(h, w, c)`, as `(size, size, c)`."""
  height, width, _ = image.shape
  return cut(image, box(jax.random.uniform(key, (DRAWS,)), height, width, scale), size)
