"""The forms of a convolution: each equals the sum that defines it, and XLA's, with both gradients."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, NamedSharding, PartitionSpec as P

from spectral_jax.models import convolution, groups, winograd

# (b, h, w, c, f, k, stride): odd and even sides, a window larger than the output, one image, a 1x1 and a 7x7 window.
SHAPES = [(5, 7, 4, 3, 4, 3, 1), (1, 8, 8, 2, 3, 3, 2), (6, 9, 9, 1, 5, 7, 2), (3, 4, 5, 4, 2, 1, 2),
          (2, 1, 1, 2, 2, 3, 1), (3, 4, 6, 2, 3, 3, 1)]


def operands(shape, dtype=jnp.float64):
  b, h, w, c, f, k, stride = shape
  keys = jax.random.split(jax.random.key(0), 3)
  x, kernel = jax.random.normal(keys[0], (b, h, w, c), dtype), jax.random.normal(keys[1], (k, k, c, f), dtype)
  dy = jax.random.normal(keys[2], (b, -(-h // stride), -(-w // stride), f), dtype)
  pad = (k - 1) // 2
  return x, kernel, dy, ((stride, stride), ((pad, pad), (pad, pad)))


def loops(x, w, dy, strides, padding):
  """Value and both gradients, position by position."""
  x, w, dy = (np.asarray(a, np.float64) for a in (x, w, dy))
  padded = np.pad(x, ((0, 0), *padding, (0, 0)))
  y, dx, dw = np.zeros(dy.shape), np.zeros(padded.shape), np.zeros(w.shape)
  for p, q, i, j in itertools.product(*map(range, (*dy.shape[1:3], *w.shape[:2]))):
    row, column = strides[0] * p + i, strides[1] * q + j
    y[:, p, q] += padded[:, row, column] @ w[i, j]
    dx[:, row, column] += dy[:, p, q] @ w[i, j].T
    dw[i, j] += padded[:, row, column].T @ dy[:, p, q]
  (top, _), (left, _) = padding
  return y, dx[:, top:top + x.shape[1], left:left + x.shape[2]], dw


def value_and_gradients(x, w, dy, strides, padding):
  @jax.jit
  def f(x, w, dy):
    y, pull = jax.vjp(lambda x, w: convolution.conv2d(x, w, strides, padding), x, w)
    return y, *pull(dy)
  return f(x, w, dy)


@pytest.fixture
def narrow(monkeypatch):
  """Small shapes take the forms of large ones, in groups that do not divide the batch."""
  monkeypatch.setattr(convolution, "WINOGRAD_CHANNELS", 2)
  monkeypatch.setattr(convolution, "PATCH_BYTES", 2 * 7 * 4 * 27 * 8)
  monkeypatch.setattr(winograd, "GROUP_TILES", 12)
  monkeypatch.setattr(groups.jax, "device_count", lambda: 1)


@pytest.mark.parametrize("side, stride, value, gradient", [(8, 1, True, True), (4, 2, True, False), (2, 1, False, False)])
def test_a_window_larger_than_what_it_slides_over_is_left_to_a_product(side, stride, value, gradient):
  """XLA has only plain loops for it on CPU; of stride 2 on 4 pixels that is the gradient alone."""
  x, w, dy, settings = operands((2, side, side, 3, 4, 3, stride), jnp.float32)
  convolves = lambda f, *a: "conv_general_dilated" in str(jax.make_jaxpr(f)(*a))
  assert convolves(lambda x, w: convolution.forward_on_cpu(x, w, *settings), x, w) == value
  assert convolves(lambda dy: convolution.input_gradient_on_cpu(dy, x, w, *settings), dy) == gradient


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_equals_the_loops(shape, narrow):
  with jax.enable_x64(True):
    x, w, dy, settings = operands(shape)
    for got, expected in zip(value_and_gradients(x, w, dy, *settings), loops(x, w, dy, *settings)):
      np.testing.assert_allclose(got, expected, atol=1e-12)


@pytest.mark.parametrize("shape", [SHAPES[1], SHAPES[5]], ids=str)
def test_bfloat16(shape, narrow):
  x, w, dy, settings = operands(shape, jnp.bfloat16)
  for got, expected in zip(value_and_gradients(x, w, dy, *settings), loops(x, w, dy, *settings)):
    assert got.dtype == jnp.bfloat16
    # One rounding of the result: all sums are made in float32.
    np.testing.assert_allclose(np.asarray(got, np.float64), expected, atol=2**-8 * np.abs(expected).max())


@pytest.mark.parametrize("devices", [2, 8])
@pytest.mark.parametrize("shape", [(16, 8, 8, 2, 4, 3, 1), (16, 8, 8, 2, 4, 3, 2)], ids=["winograd", "patches"])
def test_sharded_images_stay_where_they_are(shape, devices, monkeypatch):
  monkeypatch.setattr(convolution, "WINOGRAD_CHANNELS", 2)
  monkeypatch.setattr(convolution, "PATCH_BYTES", 1)
  monkeypatch.setattr(winograd, "GROUP_TILES", 1)
  x, w, dy, settings = operands(shape, jnp.float32)
  mesh = jax.make_mesh((devices,), ("data",), axis_types=(AxisType.Auto,), devices=jax.devices()[:devices])
  images, everywhere = NamedSharding(mesh, P("data")), NamedSharding(mesh, P())
  arguments = [jax.device_put(a, s) for a, s in ((x, images), (w, everywhere), (dy, images))]

  def f(x, w, dy):
    y, pull = jax.vjp(lambda x, w: convolution.conv2d(x, w, *settings), x, w)
    return y, *pull(dy)

  compiled = jax.jit(f, out_shardings=(images, images, everywhere)).lower(*arguments).compile()
  assert "all-gather" not in compiled.as_text() and "all-to-all" not in compiled.as_text()
  for got, expected in zip(compiled(*arguments), loops(x, w, dy, *settings)):
    np.testing.assert_allclose(got, expected, atol=1e-5 * np.abs(expected).max())


def test_groups_need_not_divide():
  x = jnp.arange(7.0)
  assert groups.map_images(lambda x: 2 * x, 3, x).tolist() == (2 * x).tolist()
  assert groups.sum_images(jnp.sum, 3, x) == 21


@pytest.mark.parametrize(("images", "size", "computed"), [(32, 28, 32), (7, 3, 9), (10, 9, 10), (5, 8, 5)])
def test_groups_are_even(images, size, computed, monkeypatch):
  """Hardly more images are computed than there are: not two groups of 28 for 32 images."""
  monkeypatch.setattr(groups.jax, "device_count", lambda: 1)
  assert groups.sum_images(lambda x: jnp.asarray(len(x)), size, jnp.zeros(images)) == computed


def test_not_a_number_stays_with_its_image(narrow):
  x, w, dy, settings = operands(SHAPES[5], jnp.float32)
  y, dx, dw = value_and_gradients(x.at[1, 2, 2, 0].set(jnp.nan), w, dy, *settings)
  assert np.isnan(y[1]).any() and np.isnan(dw).any()
  assert np.isfinite(y[0]).all() and np.isfinite(y[2]).all() and np.isfinite(dx).all()


def test_forward_mode_is_refused_and_two_reverse_passes_stand_for_it(narrow):
  with jax.enable_x64(True):
    x, w, _, settings = operands(SHAPES[5])
    f = lambda x, w: convolution.conv2d(x, w, *settings)
    with pytest.raises(TypeError, match="custom_vjp"):
      jax.jvp(f, (x, w), (x, w))
    y, pull = jax.vjp(f, x, w)
    transposed = jax.vjp(pull, jnp.zeros_like(y))[1]
    [got] = transposed((jnp.cos(x), jnp.sin(w)))
    expected = loops(jnp.cos(x), w, y, *settings)[0] + loops(x, jnp.sin(w), y, *settings)[0]
    np.testing.assert_allclose(got, expected, atol=1e-12)
