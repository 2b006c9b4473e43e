"""Alignment, uniformity and nearest neighbors against float64 loops."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from spectral_jax import metrics


def unit(x):
  return x / np.linalg.norm(x, axis=1, keepdims=True)


def test_alignment_and_uniformity_against_loops():
  rng = np.random.default_rng(0)
  u, v = unit(rng.normal(size=(2 * 13, 5))).reshape(2, 13, 5)
  for alpha in (1, 2, 3):
    want = np.mean([np.linalg.norm(a - b) ** alpha for a, b in zip(u, v)])
    np.testing.assert_allclose(metrics.alignment(jnp.asarray(2 * u), jnp.asarray(v), alpha=alpha), want, rtol=1e-5)
  for t in (0.5, 100):
    pairs = [np.exp(-t * np.sum((u[i] - u[j]) ** 2)) for i in range(13) for j in range(i)]
    got = metrics.uniformity(jnp.asarray(3 * u, jnp.float32), t=t)
    np.testing.assert_allclose(got, np.log(np.mean(pairs)), rtol=1e-4)


def test_uniformity_in_tiles_and_its_gradient(monkeypatch):
  z = jax.random.normal(jax.random.key(0), (29, 4))

  def dense(z):
    z = z / jnp.linalg.norm(z, axis=1, keepdims=True)
    squares = jnp.sum((z[:, None] - z[None]) ** 2, axis=-1)
    return jnp.log(jnp.sum(jnp.where(jnp.eye(29, dtype=bool), 0.0, jnp.exp(-2 * squares))) / (29 * 28))

  jax.clear_caches()
  monkeypatch.setattr(metrics.sphere, "TILE", 8)
  value, gradient = jax.jit(jax.value_and_grad(metrics.uniformity))(z)
  np.testing.assert_allclose(value, dense(z), rtol=1e-5)
  np.testing.assert_allclose(gradient, jax.grad(dense)(z), rtol=1e-3, atol=1e-6)
  for alpha in (1, 1.5):  # where rows lie together
    assert bool(jnp.isfinite(jax.grad(lambda x: metrics.alignment(x, z, alpha=alpha))(z)).all())
  assert float(metrics.uniformity(z[:1])) == 0


def slow_knn(train_z, train_y, test_z, test_y, k):
  hits = []
  for z, y in zip(unit(test_z), test_y):
    order = np.argsort(-(unit(train_z) @ z), kind="stable")[:k]
    votes = [np.sum(train_y[order] == train_y[j]) for j in order]
    hits.append(train_y[order][int(np.argmax(votes))] == y)
  return np.mean(hits)


@pytest.mark.parametrize("k", [1, 2, 7, 500])
def test_knn_against_a_loop(k, monkeypatch):
  rng = np.random.default_rng(0)
  train_y, test_y = rng.integers(0, 4, 90), rng.integers(0, 4, 41)
  centers = rng.normal(size=(4, 6))
  train_z, test_z = (centers[y] + 1.2 * rng.normal(size=(len(y), 6)) for y in (train_y, test_y))
  jax.clear_caches()
  monkeypatch.setattr(metrics.knn, "TILE_ENTRIES", 90 * 16)  # tiles of 16, 16 and 9 rows
  got = metrics.knn_accuracy(*map(jnp.asarray, (train_z, train_y, test_z, test_y)), k=k)
  np.testing.assert_allclose(got, slow_knn(train_z, train_y, test_z, test_y, k), rtol=1e-6)


def test_knn_ties_go_to_the_nearest_then_to_the_lower_index():
  z = jnp.array([[1.0, 0.0], [1.0, 0.1], [1.0, 0.2], [1.0, 0.3]])
  y = jnp.array([1, 0, 0, 1])
  assert float(metrics.knn_accuracy(z, y, z[:1], jnp.array([1]), k=4)) == 1
  same = jnp.ones((2, 3))
  assert float(metrics.knn_accuracy(same, jnp.array([5, 2]), same[:1], jnp.array([5]), k=1)) == 1


def test_knn_errors():
  z, y = jnp.ones((3, 2)), jnp.zeros(3, int)
  with pytest.raises(ValueError, match="same width"):
    metrics.knn_accuracy(z, y, jnp.ones((3, 4)), y)
  with pytest.raises(ValueError, match="k must be at least 1"):
    metrics.knn_accuracy(z, y, z, y, k=0)
  with pytest.raises(TypeError, match="k must be an integer, how many neighbors vote; got 2.5"):
    metrics.knn_accuracy(z, y, z, y, k=2.5)
  with pytest.raises(ValueError, match=r"train_y must have shape \(3,\)"):
    metrics.knn_accuracy(z, y[:2], z, y)
