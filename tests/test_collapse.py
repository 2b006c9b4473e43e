"""Collapse, weight gap and Wasserstein uniformity against float64 loops and SciPy's quantiles."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats

from spectral_jax import metrics
from spectral_jax.metrics import collapse, uniform_law


def clustered(mean=0.0):
  """Rows of five classes with names that are not 0..4; one class has one row."""
  rng = np.random.default_rng(0)
  labels = np.array([7, -3, 100, 0] * 9 + [5])
  centers = dict(zip(np.unique(labels), rng.normal(size=(5, 6))))
  z = np.stack([centers[y] for y in labels]) + rng.normal(size=(37, 6)) * np.linspace(0.1, 1, 6) + mean
  return z.astype(np.float32), labels


def slow_cdnv(z, labels, directional):
  z, names = z.astype(np.float64), np.unique(labels)
  ratios = []
  for c in names:
    for e in names:
      if c < e:
        apart = z[labels == c].mean(0) - z[labels == e].mean(0)
        spreads = []
        for own in (c, e):
          residuals = z[labels == own] - z[labels == own].mean(0)
          lengths = [(r @ apart) ** 2 / (apart @ apart) if directional else r @ r for r in residuals]
          spreads.append(np.mean(lengths))
        ratios.append(np.mean(spreads) / (apart @ apart))
  return np.mean(ratios)


@pytest.mark.parametrize("function", (metrics.cdnv, metrics.directional_cdnv))
def test_cdnv_against_loops(function, monkeypatch):
  for mean, rtol in ((0.0, 2e-6), (1000.0, 2e-6)):
    z, labels = clustered(mean)
    want = slow_cdnv(z, labels, function is metrics.directional_cdnv)
    np.testing.assert_allclose(function(z, labels), want, rtol=rtol)
  np.testing.assert_allclose(function(np.float32(2**83) * z, labels), want, rtol=rtol)
  np.testing.assert_allclose(jax.jit(function)(z, labels), want, rtol=rtol)  # labels unknown: as many as 37 classes
  monkeypatch.setattr(collapse, "TILE_ENTRIES", 37 * 3)
  np.testing.assert_allclose(jax.jit(lambda z, y: function(z, y, num_classes=7))(z, labels), want, rtol=rtol)


@pytest.mark.parametrize("function", (metrics.cdnv, metrics.directional_cdnv))
def test_cdnv_where_it_is_not_finite(function):
  z, labels = clustered()
  assert np.isnan(function(np.ones_like(z), labels))
  assert np.isnan(function(jnp.asarray(z).at[2, 3].set(jnp.nan), labels))
  traced = jax.jit(lambda z, y: function(z, y, num_classes=3))
  assert np.isnan(traced(z, labels)) and np.isnan(traced(z, np.zeros(37, int)))
  points = jnp.array([[0.0, 1.0], [0.0, 1.0], [5.0, 5.0], [5.0, 5.0]])
  assert function(points, jnp.array([0, 0, 1, 1])) == 0  # full collapse
  np.testing.assert_array_equal(function(jnp.array([[1.0], [-1.0], [2.0], [-2.0]]), jnp.array([0, 0, 1, 1])),
                                np.inf)  # one mean, some spread


def test_cdnv_gradient_in_float64():
  with jax.enable_x64(True):
    z, labels = clustered()
    z = jnp.asarray(z, jnp.float64)

    def definition(z, directional):
      total = 0
      for c in np.unique(labels):
        for e in np.unique(labels):
          if c != e:
            own, other = z[labels == c], z[labels == e]
            apart = own.mean(0) - other.mean(0)
            residuals = own - own.mean(0)
            along = residuals @ apart / jnp.linalg.norm(apart)
            total += jnp.mean(along**2 if directional else jnp.sum(residuals**2, axis=1)) / (apart @ apart)
      return total / 20

    for function in (metrics.cdnv, metrics.directional_cdnv):
      want = jax.grad(definition)(z, function is metrics.directional_cdnv)
      np.testing.assert_allclose(jax.grad(function)(z, labels), want, rtol=1e-8, atol=1e-12)


def test_nccc_against_a_loop(monkeypatch):
  for mean in (0.0, 300.0):
    z, labels = clustered(mean)
    rng = np.random.default_rng(1)
    test_z = (z + rng.normal(size=z.shape)).astype(np.float32)
    test_y = np.where(np.arange(37) % 9 == 0, 55, labels)  # 55 has no training row
    means = {c: z[labels == c].astype(np.float64).mean(0) for c in np.unique(labels)}
    want = np.mean([min(means, key=lambda c: np.sum((row - means[c]) ** 2)) == y for row, y in zip(test_z, test_y)])
    assert 0.3 < want < 0.9
    monkeypatch.setattr(collapse, "TILE_ENTRIES", 5 * 8)
    np.testing.assert_allclose(metrics.nccc_accuracy(z, labels, test_z, test_y), want, rtol=1e-6)
    for factor in (2.0**100, 2.0**-100):  # the nearest mean is the same at every scale
      np.testing.assert_allclose(metrics.nccc_accuracy(z * factor, labels, test_z * factor, test_y), want, rtol=1e-6)
  assert metrics.nccc_accuracy(z, labels * 0, test_z, labels * 0) == 1
  assert np.isnan(metrics.nccc_accuracy(jnp.asarray(z).at[0, 0].set(jnp.nan), labels, test_z, test_y))
  assert np.isnan(metrics.nccc_accuracy(z, labels, jnp.asarray(test_z).at[0, 0].set(jnp.nan), test_y))


def test_weight_gap():
  rng = np.random.default_rng(0)
  a = {"dense": {"kernel": rng.normal(size=(4, 3)), "bias": rng.normal(size=3)}, "scale": [rng.normal(size=5)]}
  b = jax.tree.map(lambda w: w + rng.normal(size=w.shape), a)
  norm = lambda w: np.sqrt(np.sum(w**2))
  want = np.mean([2 * norm(w - v) / (norm(w) + norm(v)) for w, v in zip(jax.tree.leaves(a), jax.tree.leaves(b))])
  single = lambda tree, by=1.0: jax.tree.map(lambda w: jnp.asarray(by * w, jnp.float32), tree)
  np.testing.assert_allclose(metrics.weight_gap(single(a), single(b)), want, rtol=1e-6)
  np.testing.assert_allclose(metrics.weight_gap(single(a, 1e25), single(b, 1e25)), want, rtol=1e-6)
  np.testing.assert_allclose(metrics.weight_gap(single(a), single(a, -1)), 2, rtol=1e-6)
  assert metrics.weight_gap(single(a), single(a)) == 0
  zeros = {"bias": jnp.zeros(3)}
  value, gradient = jax.value_and_grad(metrics.weight_gap)(zeros, zeros)
  assert value == 0 and bool((gradient["bias"] == 0).all())
  assert np.isnan(metrics.weight_gap({"w": jnp.array([1.0, jnp.nan])}, {"w": jnp.ones(2)}))


@pytest.mark.parametrize("d", (2, 3, 4, 7, 128, 999))
def test_quantiles_of_the_sphere(d):
  levels = np.concatenate([np.linspace(0, 1, 41), [1e-6, 1 - 1e-6]])
  want = 2 * scipy.stats.beta.ppf(levels, (d - 1) / 2, (d - 1) / 2) - 1
  np.testing.assert_allclose(uniform_law.quantiles(levels, d), want, rtol=0, atol=1e-10)


def slow_wasserstein(z, fine=64):
  """The mean distance of quantiles, on a grid that divides every cosine's share of probability into `fine`."""
  z = z.astype(np.float64)
  z = z / np.linalg.norm(z, axis=1, keepdims=True)
  n, d = z.shape
  cosines = np.sort([z[i] @ z[j] for i in range(n) for j in range(i)])
  levels = (np.arange(len(cosines) * fine) + 0.5) / (len(cosines) * fine)
  law = 2 * scipy.stats.beta.ppf(levels, (d - 1) / 2, (d - 1) / 2) - 1
  return np.mean(np.abs(np.repeat(cosines, fine) - law))


@pytest.mark.parametrize("n, d, shift", [(3, 2, 0.0), (40, 2, 0.0), (41, 3, 0.5), (50, 16, 0.0), (50, 128, 1.0)])
def test_wasserstein_uniformity_against_quantiles(n, d, shift, monkeypatch):
  z = (np.random.default_rng(n).normal(size=(n, d)) + shift).astype(np.float32)
  monkeypatch.setattr(uniform_law, "TILE", 16)
  np.testing.assert_allclose(metrics.wasserstein_uniformity(3 * z), slow_wasserstein(z), rtol=0, atol=1e-5)


def test_wasserstein_uniformity_at_the_extremes_and_its_gradient():
  for d in (2, 3, 50):
    np.testing.assert_allclose(metrics.wasserstein_uniformity(jnp.ones((9, d))), 1, rtol=1e-5)
  assert metrics.wasserstein_uniformity(jnp.ones((1, 4))) == 0
  assert np.isnan(metrics.wasserstein_uniformity(jnp.ones((4, 4)).at[2, 2].set(jnp.nan)))
  with pytest.raises(ValueError, match="at least 2 columns"):
    metrics.wasserstein_uniformity(jnp.ones((4, 1)))
  z = np.random.default_rng(0).normal(size=(12, 5)) + 1.0
  with jax.enable_x64(True):
    gradient = jax.grad(metrics.wasserstein_uniformity)(jnp.asarray(z))
    step = 1e-3 * gradient / jnp.linalg.norm(gradient)
    change = slow_wasserstein(z + np.asarray(step), 512) - slow_wasserstein(z - np.asarray(step), 512)
    np.testing.assert_allclose(change / 2e-3, jnp.linalg.norm(gradient), rtol=1e-2)


def test_errors():
  z, y = jnp.ones((6, 3)), jnp.arange(6) % 2
  for function in (metrics.cdnv, metrics.directional_cdnv):
    with pytest.raises(ValueError, match="labels must hold at least 2 classes, got 1"):
      function(z, y * 0)
    with pytest.raises(ValueError, match=r"labels must have shape \(6,\)"):
      function(z, y[:5])
    with pytest.raises(TypeError, match="integers"):
      function(z, y * 1.0)
    with pytest.raises(ValueError, match="num_classes must be an integer of at least 2, got 1"):
      function(z, y, num_classes=1)
    with pytest.raises(ValueError, match="number of classes in labels, 6; got 3"):
      function(z, jnp.arange(6), num_classes=3)
  with pytest.raises(ValueError, match="same width"):
    metrics.nccc_accuracy(z, y, jnp.ones((2, 4)), y[:2])
  with pytest.raises(ValueError, match="same structure"):
    metrics.weight_gap({"a": z}, {"b": z})
  with pytest.raises(ValueError, match=r"same shapes, got \(6, 3\) and \(2,\) at \['a'\]"):
    metrics.weight_gap({"a": z}, {"a": z[0, :2]})
  with pytest.raises(ValueError, match="at least one array"):
    metrics.weight_gap({}, {})
  with pytest.raises(TypeError, match=r"params_a\['a'\] must hold floating-point"):
    metrics.weight_gap({"a": y}, {"a": y})
