"""Row normalization at the ends of the number range, and argument checks."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from spectral_jax import _arrays


@jax.jit
def unit_and_gradient(x, cotangent):
  unit, pull_back = jax.vjp(_arrays.unit_rows, x)
  return unit, pull_back(cotangent)[0]


def exact(x, cotangent):
  """Both from the equation, row by row in float64; the gradient times the row's norm, which is of size 1."""
  units, gradients = [], []
  for row, c in zip(x.astype(np.float64), cotangent.astype(np.float64)):
    unit = row / np.abs(row).max()
    unit = unit / np.sqrt(np.sum(unit * unit))
    units.append(unit)
    gradients.append(c - (c @ unit) * unit)
  return np.stack(units), np.stack(gradients)


@pytest.mark.parametrize("scale", [1e-38, 1.2e-38, 1e-30, 1e-3, 1.0, 8.5e37, 3.4e38])
def test_rows_of_any_finite_size_are_normalized_exactly(scale):
  rng = np.random.default_rng(0)
  x, cotangent = rng.uniform(-1, 1, size=(2, 16, 5))
  x[:, 0] = 1.0
  x, cotangent = (x * scale).astype(np.float32), cotangent.astype(np.float32)
  unit, gradient = jax.device_get(unit_and_gradient(x, cotangent))
  expected, slope = exact(x, cotangent)
  np.testing.assert_allclose(unit, expected, atol=3e-7)
  norms = np.linalg.norm(x.astype(np.float64), axis=1, keepdims=True)
  # Of huge rows the gradient, 1 / norm, is below the normal numbers, which processors may flush to zero.
  np.testing.assert_allclose(gradient * norms, slope, atol=1e-6 + float(norms.max() * np.finfo(np.float32).tiny))


@pytest.mark.parametrize("scale", [2e-308, 1.0, 1e308])
def test_float64_rows_too(scale):
  rng = np.random.default_rng(1)
  x, cotangent = rng.uniform(-1, 1, size=(2, 4, 3))
  x[:, 0] = 1.0
  with jax.enable_x64(True):
    unit, gradient = jax.device_get(unit_and_gradient(x * scale, cotangent))
  expected, slope = exact(x, cotangent)
  np.testing.assert_allclose(unit, expected, atol=1e-15)
  if scale < 1e300:
    np.testing.assert_allclose(gradient * (scale * np.linalg.norm(x, axis=1, keepdims=True)), slope, atol=1e-14)


def test_a_small_entry_of_a_tiny_row_is_not_flushed():
  row = np.array([[1.2e-38, 3e-39]], np.float32)
  unit, _ = unit_and_gradient(row, np.ones_like(row))
  np.testing.assert_allclose(unit[0, 1] / unit[0, 0], row[0, 1].astype(np.float64) / row[0, 0], rtol=1e-6)


def test_zero_rows_stay_zero_with_zero_gradient_and_nan_or_inf_is_nan_in_both():
  x = np.array([[0, 0], [3, 4], [np.nan, 1], [np.inf, 1], [1, -np.inf], [-0.0, 0]], np.float32)
  unit, gradient = jax.device_get(unit_and_gradient(x, np.ones_like(x)))
  assert not np.any(unit[[0, 5]]) and not np.any(gradient[[0, 5]])
  np.testing.assert_allclose(unit[1], [0.6, 0.8], rtol=1e-6)
  np.testing.assert_allclose(gradient[1], np.array([1, 1]) / 5 - 1.4 / 5 * np.array([0.6, 0.8]), rtol=1e-5)
  assert np.all(np.isnan(unit[2:5])) and np.all(np.isnan(gradient[2:5]))


@pytest.mark.parametrize("dtype", ["bfloat16", "float16", "float32"])
def test_half_precision_rows_and_forward_derivatives(dtype):
  x = jnp.asarray([[3.0, -4.0], [1.0, 1.0]], dtype)
  unit, tangent = jax.jvp(_arrays.unit_rows, (x,), (jnp.ones_like(x),))
  assert unit.dtype == tangent.dtype == x.dtype
  np.testing.assert_allclose(np.asarray(unit, np.float32)[0], [0.6, -0.8], rtol=1e-2)
  np.testing.assert_allclose(np.asarray(tangent, np.float32)[0], [1.12 / 5, 0.84 / 5], rtol=3e-2)


@pytest.mark.parametrize("error, words, call", [
    (TypeError, "u must be an array, got <class 'numpy.float16'>", lambda: _arrays.matrix("u", np.float16)),
    (TypeError, "u must be an array, got None", lambda: _arrays.matrix("u", None)),
    (TypeError, "labels must be an array, got 'a'", lambda: _arrays.labels_of("a", 3)),
    (TypeError, "temperature must be a number, got <class 'float'>", lambda: _arrays.positive("temperature", float)),
])
def test_what_is_no_array_is_refused_by_name(error, words, call):
  with pytest.raises(error, match=words):
    call()
