"""The global contrastive objective: a batch's gradient with denominators that remember earlier batches."""

import functools

import jax
import numpy as np
import pytest

from spectral_jax import losses
from tests import loss_oracles as oracle

N = 7


def batch(seed=0):
  u, v = np.random.default_rng(seed).normal(size=(2, N, 3))
  return u, u + v


def unseen(n=N):
  return np.full((n, 2), -np.inf)


@pytest.mark.parametrize("negatives", ["both", "across"])
def test_with_gamma_1_it_is_the_batch_s_own_loss_whatever_is_remembered(negatives):
  (u, v), where = batch(), np.arange(N) != 3
  with jax.enable_x64(True):
    loss = lambda u, v, old: losses.global_contrastive(u, v, old, gamma=1.0, where=where, negatives=negatives)[0]
    remembered = jax.device_get(jax.value_and_grad(loss, (0, 1))(u, v, np.random.default_rng(1).normal(size=(N, 2))))
    new = jax.device_get(jax.value_and_grad(loss, (0, 1))(u, v, unseen()))
  loop = lambda u, v: oracle.mean([
      None if g[0] is None else (np.log(g[0]) + np.log(g[1])) / 2
      for g in oracle.estimates(oracle.normalize(u), oracle.normalize(v), 0.1, where, negatives)])
  for value, (du, dv) in (remembered, new):
    assert value == pytest.approx(loop(u, v), rel=1e-12)
    h = np.random.default_rng(2).normal(size=(2, N, 3))
    assert np.sum(du * h[0] + dv * h[1]) == pytest.approx(oracle.derivative(loop, (u, v), h), rel=1e-9)


def test_with_gamma_1_the_gradient_is_that_of_dcl():
  u, v = batch()
  with jax.enable_x64(True):
    (value, _), gradient = jax.device_get(
        jax.value_and_grad(losses.global_contrastive, has_aux=True)(u, v, unseen(), gamma=1.0))
    expected = jax.device_get(jax.value_and_grad(losses.dcl)(u, v))
  assert value == pytest.approx(expected[0] - np.log(2 * N - 2), rel=1e-12)
  np.testing.assert_allclose(gradient, expected[1], rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("negatives", ["both", "across"])
def test_averages_and_gradients_over_three_batches_equal_slow_loops(negatives):
  gamma, tau, averages, log_average = 0.3, 0.2, None, unseen()
  for seed in range(3):
    u, v = batch(seed)
    point = oracle.normalize(u), oracle.normalize(v)
    g = np.array(oracle.estimates(*point, tau, [True] * N, negatives))
    averages = g if averages is None else (1 - gamma) * averages + gamma * g
    with jax.enable_x64(True):
      (value, log_average), gradients = jax.device_get(
          jax.value_and_grad(losses.global_contrastive, (0, 1), has_aux=True)(
              u, v, log_average, gamma=gamma, temperature=tau, negatives=negatives))
    np.testing.assert_allclose(log_average, np.log(averages), rtol=1e-10, atol=1e-12)
    assert value == pytest.approx(np.log(averages).mean(), rel=1e-10)
    fixed = averages.copy()
    weighted = lambda u, v: np.sum(np.array(oracle.estimates(
        oracle.normalize(u), oracle.normalize(v), tau, [True] * N, negatives)) / fixed) / (2 * N)
    h = np.random.default_rng(9).normal(size=(2, N, 3))
    assert np.sum(gradients[0] * h[0] + gradients[1] * h[1]) == pytest.approx(
        oracle.derivative(weighted, (u, v), h), rel=1e-9)


def test_masked_rows_and_rows_without_negatives_keep_their_averages_and_nan_is_nan():
  u, v = (x.astype(np.float32) for x in batch())
  old = np.random.default_rng(3).normal(size=(N, 2)).astype(np.float32)
  where = np.arange(N) < 4
  u[5] = np.nan
  (value, new), gradient = jax.value_and_grad(losses.global_contrastive, has_aux=True)(u, v, old, where=where)
  sliced, _ = losses.global_contrastive(u[:4], v[:4], old[:4])
  assert value == pytest.approx(float(sliced), rel=1e-5) and np.all(np.isfinite(gradient)) and not np.any(gradient[4:])
  np.testing.assert_array_equal(new[4:], old[4:])
  value, new = losses.global_contrastive(u[:1], v[:1], old[:1])
  assert value == 0 and np.array_equal(new, old[:1])
  value, new = losses.global_contrastive(u, v, old)
  assert np.isnan(value) and np.all(np.isnan(new))


@pytest.mark.parametrize("tau", [0.005, 0.01])
def test_small_temperatures_stay_in_range(tau):
  u, v = (x.astype(np.float32) for x in batch())
  loss = functools.partial(losses.global_contrastive, temperature=tau, gamma=0.1)
  for a, b in ((u, v), (u, -v), (u, u)):  # averages of e^-400 to e^400
    old = loss(u, v if a is u and b is not v else -v, unseen())[1]
    (value, new), gradient = jax.value_and_grad(loss, has_aux=True)(a, b, old)
    assert np.isfinite(value) and np.all(np.isfinite(new)) and np.all(np.isfinite(gradient))


def test_sharded_and_tiled_equal_one_device_and_averages_stay_sharded():
  u, v = (np.concatenate(x).astype(np.float32)[:8] for x in zip(batch(0), batch(1)))
  old = np.random.default_rng(4).normal(size=(8, 2)).astype(np.float32)
  expected = jax.value_and_grad(losses.global_contrastive, has_aux=True)(u, v, old)
  mesh = jax.make_mesh((4,), ("data",), devices=jax.devices()[:4])
  got = jax.value_and_grad(losses.sharded(losses.global_contrastive, mesh), has_aux=True)(u, v, old)
  tiled = jax.value_and_grad(functools.partial(losses.global_contrastive, tile_size=3), has_aux=True)(u, v, old)
  for a, b, c in zip(*map(jax.tree.leaves, (got, tiled, expected))):
    np.testing.assert_allclose(a, c, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(b, c, rtol=1e-5, atol=1e-6)
  assert got[0][1].sharding.spec == jax.P("data")


@pytest.mark.parametrize("error, words, keywords", [
    (ValueError, r"gamma must lie in \(0, 1\], got 1.5", {"gamma": 1.5}),
    (ValueError, "gamma must be a positive finite number, got 0", {"gamma": 0.0}),
    (ValueError, "negatives must be one of 'both', 'across'; got 'all'", {"negatives": "all"}),
    (ValueError, r"log_average must have shape \(7, 2\).*got \(7,\)", {"log_average": np.zeros(7, np.float32)}),
    (TypeError, "log_average must hold floating-point numbers", {"log_average": np.zeros((7, 2), int)}),
])
def test_bad_input_names_the_argument(error, words, keywords):
  u, v = batch()
  with pytest.raises(error, match=words):
    losses.global_contrastive(u, v, **{"log_average": unseen(), **keywords})
