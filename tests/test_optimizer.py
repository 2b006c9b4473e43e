"""Optimizers against their update rules written out in NumPy, and the schedule."""

import jax
import jax.numpy as jnp
import ml_collections
import numpy as np
import optax
import pytest

from spectral_jax.training.optimizer import (
  make_optimizer,
  peak_learning_rate,
  scaled_learning_rate,
  warmup_cosine,
  warmup_length,
)
from spectral_jax.training.step import Hyper


def config(**changes):
  return ml_collections.ConfigDict(dict(
      name="sgd", learning_rate=0.2, weight_decay=0.01, momentum=0.9, warmup_epochs=0, warmup_steps=0,
      scale_with_batch=True) | changes)


def gradients(t, params):
  random = np.random.default_rng(t)
  return {name: random.normal(size=p.shape).astype(np.float32) for name, p in params.items()}


PARAMS = {"kernel": np.linspace(-1, 1, 12, dtype=np.float32).reshape(3, 4), "bias": np.ones(4, np.float32),
          "scale": np.full(4, 2, np.float32)}


def made(settings, batch_size, total_steps, steps_per_epoch):
  """The optimizer and schedule of a run of that many steps."""
  peak = peak_learning_rate(settings, batch_size)
  return make_optimizer(settings)(Hyper({}, peak, warmup_length(settings, total_steps, steps_per_epoch), total_steps))


def run(settings, steps=3, batch_size=256):
  tx, schedule = made(settings, batch_size, 10, 5)
  params = jax.tree.map(jnp.array, PARAMS)
  state = tx.init(params)
  for t in range(steps):
    updates, state = tx.update(gradients(t, PARAMS), state, params)
    params = optax.apply_updates(params, updates)
  return params, [float(schedule(t)) for t in range(steps)]


def test_sgd():
  got, rates = run(config())
  for name, p in PARAMS.items():
    p, trace = p.astype(np.float64), 0
    for t, rate in enumerate(rates):
      decay = 0.01 * p if name == "kernel" else 0
      trace = gradients(t, PARAMS)[name] + decay + 0.9 * trace
      p = p - rate * trace
    np.testing.assert_allclose(got[name], p, rtol=1e-5, atol=1e-6)


def test_lars():
  """Kernels take a step of the trust ratio 0.001 |p| / |g + w p|; other parameters plain momentum without decay."""
  got, rates = run(config(name="lars"))
  for name, p in PARAMS.items():
    p, trace = p.astype(np.float64), 0
    for t, rate in enumerate(rates):
      g = gradients(t, PARAMS)[name].astype(np.float64)
      if name == "kernel":
        g = g + 0.01 * p
        g = g * 0.001 * np.linalg.norm(p) / np.linalg.norm(g)
      trace = rate * g + 0.9 * trace
      p = p - trace
    np.testing.assert_allclose(got[name], p, rtol=1e-5, atol=1e-6)


def test_adamw():
  got, rates = run(config(name="adamw"))
  for name, p in PARAMS.items():
    p, m, v = p.astype(np.float64), 0, 0
    for t, rate in enumerate(rates):
      g = gradients(t, PARAMS)[name].astype(np.float64)
      m, v = 0.9 * m + 0.1 * g, 0.999 * v + 0.001 * g * g
      step = m / (1 - 0.9 ** (t + 1)) / (np.sqrt(v / (1 - 0.999 ** (t + 1))) + 1e-8)
      p = p - rate * (step + (0.01 * p if name == "kernel" else 0))
    np.testing.assert_allclose(got[name], p, rtol=1e-5, atol=1e-6)


def test_schedule():
  _, schedule = made(config(warmup_epochs=2, learning_rate=0.5), 512, 50, 5)
  rates = [float(schedule(t)) for t in range(51)]
  np.testing.assert_allclose(rates[:10], 1.0 * np.arange(1, 11) / 10, rtol=1e-6)
  expected = [0.5 * (1 + np.cos(np.pi * (t - 10) / 40)) for t in range(10, 51)]
  np.testing.assert_allclose(rates[10:], expected, atol=1e-6)
  steps = made(config(warmup_epochs=2, warmup_steps=3), 256, 50, 5)[1]
  assert float(steps(1)) == pytest.approx(0.2 * 2 / 3) and float(steps(2)) == pytest.approx(0.2)
  assert float(warmup_cosine(1.0, 0, 1)(0)) == 1.0


def test_learning_rate_follows_the_batch():
  assert scaled_learning_rate(0.1, 1024) == pytest.approx(0.4)
  assert scaled_learning_rate(0.1, 1024, rule="sqrt") == pytest.approx(0.2)
  assert scaled_learning_rate(0.1, 1024, rule="none") == pytest.approx(0.1)
  peak = lambda **changes: float(made(config(**changes), 1024, 10, 5)[1](0))
  assert peak() == pytest.approx(0.8) and peak(scale_with_batch=False) == pytest.approx(0.2)
  assert peak(batch_scaling="sqrt") == pytest.approx(0.4)


@pytest.mark.parametrize("changes, message", [
    (dict(name="lar"), "config.optimizer.name='lar' is not known. Did you mean 'lars'"),
    (dict(learning_rate=0.0), "learning_rate must be positive"),
    (dict(weight_decay=-1.0), "weight_decay must be finite and not negative"),
    (dict(momentum=1.0), r"momentum must be in \[0, 1\)"),
    (dict(warmup_epochs=3), "the warm-up takes 15 steps, but the run has 10"),
    (dict(batch_scaling="log"), "config.optimizer.batch_scaling"),
])
def test_bad_values_are_explained(changes, message):
  with pytest.raises(ValueError, match=message):
    made(config(**changes), 256, 10, 5)
