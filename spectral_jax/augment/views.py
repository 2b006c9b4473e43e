"""One image to one view, and a batch to two; everything random is a function of (seed, step, index, view).

Strengths are SimCLR's (Chen et al. 2020, arXiv 2002.05709, appendices A and B.9): for a strength s, brightness,
contrast and saturation are multiplied by a uniform number in 1 +- 0.8 s and the hue is turned by up to 0.2 s, with
probability 0.8; gray with probability 0.2; blur with probability 0.5, a deviation in (0.1, 2) pixels and a kernel of a
tenth of the image. ImageNet has s = 1 and the blur; CIFAR-10 has s = 0.5 and none. Solarizing is BYOL's (Grill et al.
2020, arXiv 2006.07733, appendix B).
The four color operations come in a fixed order, not a random one: under vmap a random order costs all orders.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import dm_pix as pix
import jax
import jax.numpy as jnp

from spectral_jax.augment.check import check_augment
from spectral_jax.augment.crop import cut, random_crop
from spectral_jax.augment.geometry import blur, warp, warp_matrix

if TYPE_CHECKING:
  from collections.abc import Callable

  from jaxtyping import Array, Float, Int, PRNGKeyArray, Shaped

  from spectral_jax._types import Config

BLUR_SIGMA = (0.1, 2.0)
SOLARIZE_THRESHOLD = 0.5


def make_augment(config: Config, image_size: int, *,
                 cropped: bool = False) -> Callable[[PRNGKeyArray, Array], Array]:
  """The augmentation that `config.augment` describes, as a function of one image.

  Args:
    config: Config with `crop_scale` ((lo, hi), the crop's share of the area; None or () for no crop), `flip`,
      `jitter_strength` and `jitter_prob`, `gray_prob`, `blur_prob`, `solarize_prob`, and `affine` with half-widths
      `rotation_deg` (degrees), `scale`, `shear` and `shift` (shares; zeros leave the warp out).
    image_size: height and width of the view in pixels.
    cropped: the images are random crops already (the streaming path): no second one.

  Returns:
    `f(key, image)` from a float `(h, w, c)` image in [0, 1] to a float32 `(image_size, image_size, c)` view in [0, 1].
    Color operations are left out where c is not 3.

  Raises:
    ConfigError: on a value that no augmentation can have (`check_augment`).

  >>> import ml_collections
  >>> config = ml_collections.ConfigDict(dict(
  ...     crop_scale=(0.2, 1.0), flip=True, jitter_strength=0.5, jitter_prob=0.8, gray_prob=0.2, blur_prob=0.0,
  ...     solarize_prob=0.0, affine=dict(rotation_deg=0.0, scale=0.0, shear=0.0, shift=0.0)))
  >>> augment = jax.jit(make_augment(config, 32))
  >>> augment(jax.random.key(0), jnp.ones((48, 48, 3))).shape
  (32, 32, 3)
  """
  check_augment(config)
  scale = None if cropped or not config.crop_scale else tuple(config.crop_scale)
  affine = dict(config.affine or {})

  def augment(key, image):
    crop_key, affine_key, flip_key, color_key, blur_key, solarize_key = jax.random.split(key, 6)
    image = image.astype(jnp.float32)
    if scale is not None:
      image = random_crop(crop_key, image, image_size, scale)
    elif image.shape[:2] != (image_size, image_size):
      image = cut(image, jnp.array([0.0, 0.0, *image.shape[:2]]), image_size)
    if any(affine.values()):
      image = warp(image, *warp_matrix(affine_key, **affine))
    if config.flip:
      image = _sometimes(flip_key, 0.5, pix.flip_left_right, image)
    if image.shape[-1] == 3:
      image = _color(color_key, image, config)
    if config.blur_prob:
      chance_key, sigma_key = jax.random.split(blur_key)
      sigma = jax.random.uniform(sigma_key, minval=BLUR_SIGMA[0], maxval=BLUR_SIGMA[1])
      image = _sometimes(chance_key, config.blur_prob, lambda x: blur(x, sigma, max(1, image_size // 20)), image)
    if config.solarize_prob:
      image = _sometimes(solarize_key, config.solarize_prob, lambda x: pix.solarize(x, SOLARIZE_THRESHOLD), image)
    return jnp.clip(image, 0.0, 1.0)

  return augment


def two_views(augment: Callable[[PRNGKeyArray, Array], Array], key: PRNGKeyArray, indices: Int[Array, " b"],
              images: Shaped[Array, "b h w c"]) -> tuple[Float[Array, "b h w c"], Float[Array, "b h w c"]]:
  """Two views of each image of a batch.

  Image i's view w has the key `fold_in(fold_in(key, indices[i]), w)`: it does not depend on the rest of the batch.

  Args:
    augment: what `make_augment` returns.
    key: the step's key, already folded with the step.
    indices: `(b,)` integers, the images' places in the data set.
    images: uint8 `(b, h, w, c)`, or `(2, b, h, w, c)` where the views were cropped while they were decoded.

  Returns:
    `(u, v)`, each float32 `(b, size, size, c)`.

  >>> images = jnp.full((3, 8, 8, 1), 255, jnp.uint8)
  >>> u, v = two_views(lambda key, image: image, jax.random.key(0), jnp.arange(3), images)
  >>> u.shape, float(u.max())
  ((3, 8, 8, 1), 1.0)
  """
  keys = jax.vmap(lambda index: jax.random.fold_in(key, index))(indices)
  pairs = images if images.ndim == 5 else (images, images)

  def view(which):
    view_keys = jax.vmap(lambda k: jax.random.fold_in(k, which))(keys)
    return jax.vmap(augment)(view_keys, pairs[which].astype(jnp.float32) / 255)

  return view(0), view(1)


def _color(key, image, config):
  chance_key, gray_key, factor_key = jax.random.split(key, 3)
  s = config.jitter_strength
  if s and config.jitter_prob:
    low, high = max(0.0, 1 - 0.8 * s), 1 + 0.8 * s
    brightness, contrast, saturation = jax.random.uniform(factor_key, (3,), minval=low, maxval=high)
    turn = jax.random.uniform(jax.random.fold_in(factor_key, 1), minval=-0.2 * s, maxval=0.2 * s)

    def jitter(x):
      # The hue is only defined inside [0, 1].
      x = jnp.clip(x * brightness, 0, 1)
      x = jnp.clip(pix.adjust_contrast(x, contrast), 0, 1)
      return jnp.clip(pix.adjust_hue(pix.adjust_saturation(x, saturation), turn), 0, 1)

    image = _sometimes(chance_key, config.jitter_prob, jitter, image)
  if config.gray_prob:
    gray = lambda x: pix.rgb_to_grayscale(x, keep_dims=True)
    image = _sometimes(gray_key, config.gray_prob, gray, image)
  return image


def _sometimes(key, probability, operation, image):
  return jnp.where(jax.random.bernoulli(key, probability), operation(image), image)
