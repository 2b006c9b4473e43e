"""Bounds on the drift between CL and NSCL: they hold without exception, and equal their equations."""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from spectral_jax import bounds, losses, metrics


def batches(seed, n=12, d=4):
  """Random views, aligned ones, views all equal, opposite classes; labels from one class for all to all alone."""
  rng = np.random.default_rng(seed)
  u = rng.normal(size=(n, d))
  labels = [np.arange(n) % 3, np.arange(n) % 2, np.minimum(np.arange(n), 1), np.arange(n),
            rng.integers(0, 4, n)][seed % 5]
  poles = np.where(labels[:, None] == labels[0], 1.0, -1.0) * np.ones((n, d))
  u = [u, u, np.ones((n, d)), poles, poles + 0.1 * u][seed // 5 % 5]
  v = [u, u + rng.normal(size=(n, d)), -u][seed % 3]
  return u.astype(np.float32), v.astype(np.float32), labels


PAIRS = {"without the positive": (losses.dcl, losses.nscl),
         "with it": (losses.nt_xent, functools.partial(losses.nscl, positive_in_denominator=True))}


@pytest.mark.parametrize("positive", PAIRS)
def test_the_loss_gap_never_exceeds_its_bound(positive):
  """At every anchor, so at every step; without any tolerance beyond rounding."""
  contrastive, label_aware = PAIRS[positive]

  @jax.jit
  def gap(u, v, labels, tau):
    own = contrastive(u, v, temperature=tau, reduction="none")
    return own - label_aware(u, v, labels, temperature=tau, reduction="none"), own, bounds.anchor_loss_gap_bound(
        labels, temperature=tau)

  tightest = 0.0
  for seed in range(75):
    for tau in (0.005, 0.1, 1.0, 10.0):
      u, v, labels = batches(seed)
      gaps, values, bound = map(np.asarray, gap(u, v, labels, tau))
      rounding = 4e-6 * (1 / tau + np.abs(values))
      some = np.array([np.sum(labels != y) for y in labels]) > 0
      assert (gaps <= bound + rounding).all() and (gaps[some] >= -rounding[some]).all()
      repeated = some & (bound > 0)
      tightest = max(tightest, np.max(gaps[repeated] / bound[repeated], initial=0))
  assert tightest > 0.9  # and some batch comes near it


def test_loss_gap_bounds_equal_their_equations():
  counts = np.array([3, 9, 4])
  for tau in (0.5, 1.0):
    want = math.log(1 + 9 * math.exp(2 / tau) / 7)
    np.testing.assert_allclose(bounds.loss_gap_bound(counts, temperature=tau), want, rtol=1e-6)
    np.testing.assert_allclose(bounds.loss_gap_bound(jnp.full(10, 7.0), temperature=tau),
                               math.log(1 + math.exp(2 / tau) / 9), rtol=1e-6)
    labels = np.array([4, -1, 4, 4, 2, 2])
    want = [math.log(1 + (np.sum(labels == y) - 1) * math.exp(2 / tau) / np.sum(labels != y)) for y in labels]
    np.testing.assert_allclose(bounds.anchor_loss_gap_bound(labels, temperature=tau), want, rtol=1e-6)
  np.testing.assert_allclose(bounds.loss_gap_bound(counts, temperature=0.005), 400 + math.log(9 / 7), rtol=1e-6)
  assert np.isposinf(bounds.loss_gap_bound(np.array([5]), temperature=1.0))
  assert np.isposinf(bounds.anchor_loss_gap_bound(np.zeros(4, int), temperature=1.0)).all()
  assert bounds.anchor_loss_gap_bound(np.zeros(1, int), temperature=1.0) == 0
  assert np.isnan(bounds.loss_gap_bound(jnp.array([1.0, jnp.nan]), temperature=1.0))


def test_similarity_drift_bound_equals_its_equation():
  steps, b, prior, delta = np.linspace(0.1, 0.001, 20), 256, 0.1, 0.05
  for tau in (0.5, 1.0):
    eps = math.sqrt(math.log(20 * b / delta) / (2 * b))
    drift = 2 * math.exp(2 / tau) * (prior + eps) / (1 - prior - eps)
    total = steps.sum()
    want = math.exp(total / (2 * tau**2 * b)) * total / (tau * math.sqrt(b)) * drift
    got = bounds.similarity_drift_bound(steps, batch_size=b, temperature=tau, max_class_prior=prior, delta=delta)
    np.testing.assert_allclose(got, want, rtol=1e-5)
  given = functools.partial(bounds.similarity_drift_bound, steps, temperature=0.1, max_class_prior=0.1)
  assert np.isposinf(given(batch_size=4)) and np.isfinite(given(batch_size=512))
  assert bounds.similarity_drift_bound(0 * steps, batch_size=b, temperature=1.0, max_class_prior=prior) == 0
  assert np.isposinf(bounds.similarity_drift_bound(1e9 * steps, batch_size=b, temperature=0.1, max_class_prior=prior))


def test_weight_drift_bound_equals_its_equation():
  steps = np.linspace(0.1, 0.001, 20)
  for beta, tau in ((1.0, 0.5), (1e-4, 1.0), (30.0, 0.2)):
    want = 3.0 * math.exp(2 / tau) / (beta * tau * 10) * math.expm1(beta * steps.sum())
    got = bounds.weight_drift_bound(steps, smoothness=beta, gradient_norm=3.0, num_classes=10, temperature=tau)
    np.testing.assert_allclose(got, want, rtol=2e-5)
  given = functools.partial(bounds.weight_drift_bound, smoothness=1.0, gradient_norm=1.0, num_classes=10)
  assert given(0 * steps, temperature=1.0) == 0 and np.isposinf(given(steps, temperature=0.005))


@pytest.mark.parametrize("noise", (0.0, 0.01, 0.3, 1.0, 10.0))
def test_cka_and_rsa_lie_above_their_lower_bounds(noise):
  """Random representations, rotated, scaled and opposite ones; RSA's by rank deficiency too."""
  tightest = 0.0
  for seed in range(8):
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(20, 6)) * np.linspace(0.1, 2, 6)
    y = [x, x @ np.linalg.qr(rng.normal(size=(6, 6)))[0], 1.1 * x, x[::-1], -x, x * [1, 1, 1, 1, 1, 0]][seed % 6]
    x, y = (z.astype(np.float32) for z in (x, y + noise * rng.normal(size=(20, 6))))
    rho, cka = cka_distance(x, y), metrics.linear_cka(x, y)
    bound = bounds.cka_lower_bound(x @ x.T, y @ y.T)
    np.testing.assert_allclose(bound, math.sqrt(1 - rho**2) if rho <= 1 else (1 - rho) / (1 + rho), rtol=0, atol=1e-3)
    assert cka >= bound - 1e-5
    r, rsa = rsa_distance(x, y), metrics.rsa(x, y)
    bound = bounds.rsa_lower_bound(x, y)
    np.testing.assert_allclose(bound, math.sqrt(1 - r**2) if r <= 1 else (1 - r) / (1 + r), rtol=0, atol=1e-3)
    assert rsa >= bound - 1e-5
    tightest = max(tightest, float(bound / rsa))
  assert noise > 0.3 or tightest > 0.9


def cka_distance(x, y):
  x, y = x.astype(np.float64), y.astype(np.float64)
  h = np.eye(len(x)) - 1 / len(x)
  k, l = h @ x @ x.T @ h, h @ y @ y.T @ h
  return np.linalg.norm(k - l) / np.linalg.norm(k)


def rsa_distance(x, y):
  triangles = []
  for z in (x, y):
    z = z.astype(np.float64) / np.linalg.norm(z.astype(np.float64), axis=1, keepdims=True)
    triangles.append(np.array([1 - z[i] @ z[j] for i in range(len(z)) for j in range(i)]))
  a, b = triangles
  return np.linalg.norm(b - a) / (math.sqrt(len(a)) * np.std(a))


def test_undefined_bounds_and_errors():
  k = jnp.eye(4)
  flat, broken = jnp.ones((4, 4)), k.at[0, 0].set(jnp.nan)
  assert np.isnan(bounds.cka_lower_bound(flat, k)) and np.isnan(bounds.cka_lower_bound(broken, k))
  assert np.isnan(bounds.rsa_lower_bound(flat, k)) and np.isnan(bounds.rsa_lower_bound(k, broken))
  np.testing.assert_allclose(bounds.cka_lower_bound(1e30 * k, 0.9e30 * k), math.sqrt(1 - 0.01), rtol=1e-5)
  with pytest.raises(ValueError, match="square"):
    bounds.cka_lower_bound(k[:3], k[:3])
  with pytest.raises(ValueError, match="same shape"):
    bounds.cka_lower_bound(k, jnp.eye(3))
  with pytest.raises(ValueError, match="same number of rows"):
    bounds.rsa_lower_bound(k, k[:3])
  three = jax.random.normal(jax.random.key(0), (3, 2))
  assert 0.9 < bounds.rsa_lower_bound(three, three + 0.01) <= metrics.rsa(three, three + 0.01)
  with pytest.raises(ValueError, match="at least 3 rows"):
    bounds.rsa_lower_bound(k[:2], k[:2])
  with pytest.raises(ValueError, match="temperature must be a positive"):
    bounds.loss_gap_bound(jnp.ones(3), temperature=0.0)
  with pytest.raises(ValueError, match="class_counts must be a vector"):
    bounds.loss_gap_bound(k, temperature=1.0)
  with pytest.raises(ValueError, match="labels must have shape"):
    bounds.anchor_loss_gap_bound(k, temperature=1.0)
  with pytest.raises(ValueError, match="delta must be a positive"):
    bounds.similarity_drift_bound(jnp.ones(3), batch_size=4, temperature=1.0, max_class_prior=0.1, delta=-1.0)
  with pytest.raises(ValueError, match="step_sizes must be a vector"):
    bounds.weight_drift_bound(0.1, smoothness=1.0, gradient_norm=1.0, num_classes=2, temperature=1.0)
