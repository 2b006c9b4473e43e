"""Augmentation: each operation against a slow loop, and the keys."""

import math
import warnings

import dm_pix
import jax
import jax.numpy as jnp
import ml_collections
import numpy as np
import pytest

from spectral_jax._errors import ConfigError
from spectral_jax.augment import make_augment, two_views
from spectral_jax.augment.crop import DRAWS, TRIES, box, cut
from spectral_jax.augment.geometry import blur, warp, warp_matrix


def config(**changes):
  return ml_collections.ConfigDict(dict(
      crop_scale=None, flip=False, jitter_strength=0.0, jitter_prob=0.0, gray_prob=0.0, blur_prob=0.0,
      solarize_prob=0.0, affine=dict(rotation_deg=0.0, scale=0.0, shear=0.0, shift=0.0)) | changes)


def image(seed=0, shape=(7, 6, 3)):
  return np.random.default_rng(seed).uniform(0.1, 0.9, shape).astype(np.float32)


def slow_box(uniforms, height, width, scale):
  for t in range(TRIES):
    area = height * width * (scale[0] + (scale[1] - scale[0]) * uniforms[t])
    ratio = math.exp(math.log(3 / 4) + (math.log(4 / 3) - math.log(3 / 4)) * uniforms[TRIES + t])
    w, h = round(math.sqrt(area * ratio)), round(math.sqrt(area / ratio))
    if 1 <= w <= width and 1 <= h <= height:
      return math.floor(uniforms[-2] * (height - h + 1)), math.floor(uniforms[-1] * (width - w + 1)), h, w
  w, h = min(width, round(height * 4 / 3)), min(height, round(width * 4 / 3))
  return (height - h) // 2, (width - w) // 2, h, w


@pytest.mark.parametrize("height, width", [(32, 32), (100, 31), (20, 200)])
def test_boxes(height, width):
  uniforms = np.random.default_rng(0).uniform(size=(300, DRAWS))
  boxes = box(uniforms, np.full(300, height), np.full(300, width), (0.08, 1.0), xp=np)
  assert boxes.tolist() == [list(slow_box(u, height, width, (0.08, 1.0))) for u in uniforms]
  on_device = jax.jit(lambda u: box(u, height, width, (0.08, 1.0)))(uniforms.astype(np.float32))
  # In float32 a rounding may fall on the other side, by one pixel.
  assert np.abs(on_device - boxes).max() <= 1 and np.mean(on_device == boxes) > 0.99
  assert (boxes[:, 0] + boxes[:, 2] <= height).all() and (boxes[:, 1] + boxes[:, 3] <= width).all()


def slow_resize(pixels, size):
  """Antialiased bilinear, one axis after the other."""
  for axis in (0, 1):
    n = pixels.shape[axis]
    step, rows = n / size, []
    for i in range(size):
      center = (i + 0.5) * step - 0.5
      weights = [max(0.0, 1 - abs(center - j) / max(step, 1)) for j in range(n)]
      rows.append(sum(w * np.take(pixels, j, axis) for j, w in enumerate(weights)) / sum(weights))
    pixels = np.stack(rows, axis)
  return pixels


@pytest.mark.parametrize("where, size", [((0, 0, 7, 6), 4), ((2, 1, 3, 4), 5), ((1, 2, 1, 1), 3), ((0, 0, 7, 6), 9)])
def test_cut(where, size):
  x = image()
  top, left, height, width = where
  expected = slow_resize(x.astype(np.float64)[top:top + height, left:left + width], size)
  np.testing.assert_allclose(cut(x, jnp.array(where, jnp.float32), size), expected, atol=1e-6)


def slow_warp(pixels, matrix, translation):
  height, width, channels = pixels.shape
  center = np.array([(height - 1) / 2, (width - 1) / 2])
  out = np.zeros(pixels.shape)
  for y in range(height):
    for x in range(width):
      source = matrix @ (np.array([y, x]) - center) + center + translation * np.array([height, width])
      low = np.floor(source).astype(int)
      for dy in (0, 1):
        for dx in (0, 1):
          j, i = low + [dy, dx]
          if 0 <= j < height and 0 <= i < width:
            out[y, x] += (1 - abs(source[0] - j)) * (1 - abs(source[1] - i)) * pixels[j, i]
  return out


def test_warp():
  matrix, translation = np.array([[0.9, 0.3], [-0.2, 1.1]]), np.array([0.1, -0.05])
  x = image()
  np.testing.assert_allclose(warp(jnp.array(x), matrix, translation), slow_warp(x, matrix, translation), atol=1e-5)
  np.testing.assert_allclose(warp(jnp.array(x), np.eye(2), np.zeros(2)), x, atol=1e-6)
  # A quarter turn of a square image, exactly.
  square = image(1, (6, 6, 1))
  turned = warp(jnp.array(square), np.array([[0.0, -1.0], [1.0, 0.0]]), np.zeros(2))
  assert any(np.allclose(turned, np.rot90(square, k), atol=1e-5) for k in (1, 3))


def test_warp_matrices_stay_in_their_ranges():
  keys = jax.random.split(jax.random.key(0), 500)
  matrix, shift = jax.vmap(lambda k: warp_matrix(k, rotation_deg=30.0, scale=0.2, shear=0.0, shift=0.1))(keys)
  scale = 1 / np.sqrt(np.linalg.det(matrix))
  angle = np.degrees(np.arctan2(matrix[:, 1, 0], matrix[:, 0, 0]))
  assert 0.8 <= scale.min() < 0.82 and 1.18 < scale.max() <= 1.2 + 1e-6
  assert -30 <= angle.min() < -28 and 28 < angle.max() <= 30 + 1e-4
  assert np.abs(shift).max() <= 0.1 and np.std(shift) > 0.05
  for angle in (0.0, 30.0):
    sheared = jax.vmap(lambda k: warp_matrix(k, rotation_deg=angle, shear=0.3)[0])(keys)
    np.testing.assert_allclose(np.linalg.det(sheared), 1, rtol=1e-5)


def test_blur_is_that_of_dm_pix():
  x = jnp.array(image(shape=(20, 24, 3)))
  np.testing.assert_allclose(blur(x, 1.3, 2), dm_pix.gaussian_blur(x, 1.3, 5), atol=1e-5)


def test_a_blur_reaches_a_tenth_of_the_image():
  spike = jnp.zeros((40, 40, 1)).at[20, 20].set(1.0)
  reached = (views_of(config(blur_prob=1.0), spike, 32)[..., 0] > 0).any(axis=(0, 1))
  assert np.flatnonzero(reached).tolist() == [18, 19, 20, 21, 22]


def views_of(settings, x, count=64, size=None):
  augment = jax.jit(jax.vmap(make_augment(settings, size or x.shape[0]), in_axes=(0, None)))
  return np.asarray(augment(jax.random.split(jax.random.key(0), count), x))


def test_flip_and_no_change():
  x = image(shape=(6, 6, 3))
  np.testing.assert_allclose(views_of(config(), x, 2), np.stack([x, x]), atol=1e-6)
  flipped = [np.allclose(view, x[:, ::-1], atol=1e-6) for view in views_of(config(flip=True), x)]
  straight = [np.allclose(view, x, atol=1e-6) for view in views_of(config(flip=True), x)]
  assert sum(flipped) + sum(straight) == 64 and 16 < sum(flipped) < 48


def test_gray_solarize_and_jitter():
  x = image(shape=(6, 6, 3))
  gray = views_of(config(gray_prob=1.0), x, 1)[0]
  weights = np.array([0.2989, 0.587, 0.114])
  np.testing.assert_allclose(gray, np.repeat((x @ weights)[..., None], 3, -1), atol=1e-3)
  solarized = views_of(config(solarize_prob=1.0), x, 1)[0]
  np.testing.assert_allclose(solarized, np.where(x < 0.5, x, 1 - x), atol=1e-6)
  jittered = views_of(config(jitter_strength=1.0, jitter_prob=0.5), x)
  kept = np.array([np.allclose(view, x, atol=1e-6) for view in jittered])
  assert 16 < kept.sum() < 48 and jittered.min() >= 0 and jittered.max() <= 1
  # Twice as strong, about twice as far.
  far = [np.abs(views_of(config(jitter_strength=s, jitter_prob=1.0), x) - x).mean() for s in (0.1, 0.2)]
  assert 1.6 < far[1] / far[0] < 2.4


def test_brightness_goes_as_far_up_as_down():
  gray = np.full((2, 2, 3), 0.5, np.float32)  # which neither contrast nor saturation nor hue changes
  views = views_of(config(jitter_strength=0.5, jitter_prob=1.0), gray, 256)
  assert 0.3 - 1e-6 <= views.min() < 0.31 and 0.69 < views.max() <= 0.7 + 1e-6


def test_the_hue_turns_both_ways_equally_far():
  red = np.broadcast_to(np.float32([0.7, 0.3, 0.3]), (2, 2, 3))
  _, green, blue = views_of(config(jitter_strength=0.5, jitter_prob=1.0), red, 256)[:, 0, 0].T
  turned = green - blue  # toward yellow above 0, toward magenta below
  assert 96 < (turned > 0).sum() < 160
  assert 0.8 < turned.max() / -turned.min() < 1.25


def test_a_single_channel_keeps_its_color():
  x = image(shape=(8, 8, 1))
  everything = config(crop_scale=(0.2, 1.0), flip=True, jitter_strength=1.0, jitter_prob=1.0, gray_prob=1.0,
                      blur_prob=1.0, solarize_prob=0.2, affine=dict(rotation_deg=10.0, scale=0.1, shear=0.1, shift=0.1))
  views = views_of(everything, x, 4, size=12)
  assert views.shape == (4, 12, 12, 1) and np.isfinite(views).all()


def test_views_depend_on_key_index_and_view_alone():
  settings = config(crop_scale=(0.2, 1.0), flip=True, jitter_strength=0.5, jitter_prob=0.8, gray_prob=0.2)
  augment = make_augment(settings, 8)
  images = np.random.default_rng(0).integers(0, 256, (5, 8, 8, 3), dtype=np.uint8)
  run = jax.jit(lambda key, index, x: two_views(augment, key, index, x))
  index = np.array([4, 9, 2, 0, 7])
  with warnings.catch_warnings():
    warnings.simplefilter("error")
    u, v = run(jax.random.key(3), index, images)
  assert u.shape == (5, 8, 8, 3) and u.dtype == jnp.float32 and not np.allclose(u, v)
  order = np.array([3, 1, 4, 0, 2])
  np.testing.assert_array_equal(run(jax.random.key(3), index[order], images[order])[0], u[order])
  assert not np.allclose(run(jax.random.key(4), index, images)[0], u)
  key = jax.random.fold_in(jax.random.fold_in(jax.random.key(3), 9), 1)
  np.testing.assert_allclose(augment(key, images[1] / np.float32(255)), v[1], atol=1e-6)


def test_images_that_are_crops_are_not_cropped_again():
  augment = make_augment(config(crop_scale=(0.2, 1.0)), 8, cropped=True)
  pair = np.random.default_rng(0).integers(0, 256, (2, 3, 8, 8, 3), dtype=np.uint8)
  u, v = two_views(augment, jax.random.key(0), jnp.arange(3), pair)
  np.testing.assert_allclose(np.stack([u, v]), pair / 255, atol=1e-6)


@pytest.mark.parametrize("changes, message", [
    (dict(gray_prob=1.5), "gray_prob must be a probability"),
    (dict(jitter_strength=-1.0), "config.augment.jitter_strength must be a number that is not negative"),
    (dict(jitter_strength=float("nan")), "jitter_strength .* got nan"),
    (dict(jitter_prob=float("nan")), "jitter_prob must be a probability"),
    (dict(blur_prob="often"), "blur_prob must be a probability .* got 'often'"),
    (dict(solarize_prob=-0.1), "solarize_prob must be a probability"),
    (dict(flip=0.5), "flip must be True or False"),
    (dict(crop_scale=(2.0, 1.0)), "0 < lo <= hi <= 1"),
    (dict(crop_scale=(0.0, 1.0)), "0 < lo <= hi <= 1"),
    (dict(crop_scale=(float("nan"), 1.0)), "0 < lo <= hi <= 1"),
    (dict(crop_scale=0.2), "0 < lo <= hi <= 1"),
    (dict(affine=dict(rotation_deg=float("nan"), scale=0.0, shear=0.0, shift=0.0)), "affine.rotation_deg .* got nan"),
    (dict(affine=dict(rotation_deg=0.0, scale=0.0, shear=-1.0, shift=0.0)), "affine.shear"),
    (dict(affine=dict(rotation_deg=0.0, scale=0.0, shear=0.0, shift=2.0)), "affine.shift .* leave the view"),
    (dict(affine=dict(rotation=0.0)), "affine.rotation is not known; it has rotation_deg"),
    (dict(crop_scale=(0.5, 0.2)), "0 < lo <= hi <= 1"),
    (dict(affine=dict(rotation_deg=0.0, scale=1.0, shear=0.0, shift=0.0)), "affine.scale"),
])
def test_bad_values_are_explained(changes, message):
  with pytest.raises(ConfigError, match=message):
    make_augment(config(**changes), 8)
