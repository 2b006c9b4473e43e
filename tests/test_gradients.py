"""Closed-form anchor gradients against float64 loops and against jax.grad of the anchor's own term."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from spectral_jax import gradients, losses

LOSSES = ("info_nce", "nt_xent", "dcl", "dhel", "kcl", "nscl", "sigmoid", "debiased")
LABELS = np.array([0, 1, 0, 2, 1, 0, 2])


def unit(x):
  return x / np.linalg.norm(x, axis=1, keepdims=True)


def batch(n=7, d=5, seed=0):
  rng = np.random.default_rng(seed)
  u = rng.normal(size=(n, d))
  return unit(u), unit(u + 0.7 * rng.normal(size=(n, d)))


def slow_term(x, i, u, v, loss, tau, queue=(), t=2.0, gamma=16.0, inside=False):
  """Anchor i's own term as a function of its embedding x, all other rows fixed; written from the equations."""
  n = len(u)
  others = [j for j in range(n) if j != i]
  pull = jnp.dot(x, v[i]) / tau
  exp = lambda z: jnp.exp(jnp.dot(x, z) / tau)
  cross, own = sum(exp(v[j]) for j in others), sum(exp(u[j]) for j in others)
  if loss == "info_nce":
    return -pull + jnp.log(exp(v[i]) + cross + sum(exp(z) for z in queue))
  if loss == "nt_xent":
    return -pull + jnp.log(exp(v[i]) + cross + own)
  if loss == "dcl":
    return -pull + jnp.log(cross + own)
  if loss == "dhel":
    return -pull + jnp.log(own)
  if loss == "sigmoid":  # bias -10; the log of a sigmoid as its definition has it
    pair = lambda y, z: jnp.log1p(jnp.exp(-y * (jnp.dot(x, z) / tau - 10)))
    return pair(1, v[i]) + sum(pair(-1, v[j]) for j in others)
  if loss == "debiased":  # prior .1
    corrected = (cross + own - (2 * n - 2) * 0.1 * exp(v[i])) / 0.9
    return -pull + jnp.log(exp(v[i]) + jnp.maximum(corrected, (2 * n - 2) * jnp.exp(-1 / tau)))
  if loss == "kcl":
    kernel = lambda z: jnp.exp(-t * (2 - 2 * jnp.dot(x, z)))
    return -2 * kernel(v[i]) + gamma * sum(kernel(u[j]) for j in others) / (n - 1)
  other = [j for j in range(n) if LABELS[j] != LABELS[i]]
  return -pull + jnp.log(inside * exp(v[i]) + sum(exp(v[j]) + exp(u[j]) for j in other))


@pytest.mark.parametrize("loss", LOSSES)
def test_is_the_derivative_of_the_anchors_own_term(loss):
  u, v = batch()
  for inside in (False, True) if loss in ("nscl", "dhel") else (False,):  # NSCL's alone: others pay no heed
    with jax.enable_x64(True):
      got = gradients.anchor_gradients(jnp.asarray(3 * u), jnp.asarray(v), loss=loss, temperature=0.3,
                                       labels=jnp.asarray(LABELS), positive_in_denominator=inside)
      own = functools.partial(slow_term, u=u, v=v, loss=loss, tau=0.3, inside=inside)
      want = np.stack([jax.grad(own)(jnp.asarray(u[i]), i) for i in range(len(u))])
      assert got.dtype == jnp.float64
      np.testing.assert_allclose(got, want, rtol=1e-10, atol=1e-12)


def test_a_queue_joins_every_anchors_negatives():
  u, v = batch()
  queue = unit(np.random.default_rng(1).normal(size=(3, 5)))
  with jax.enable_x64(True):
    got = gradients.anchor_gradients(jnp.asarray(u), jnp.asarray(v), temperature=0.2, negatives=jnp.asarray(2 * queue))
    want = [jax.grad(slow_term)(jnp.asarray(u[i]), i, u, v, "info_nce", 0.2, queue) for i in range(len(u))]
    np.testing.assert_allclose(got, np.stack(want), rtol=1e-10)


def test_tangent_is_what_the_encoder_receives():
  """InfoNCE's rows do not appear in each other's terms, so its full gradient by autodiff is the closed form."""
  u, v = batch(n=9)
  with jax.enable_x64(True):
    x = jnp.asarray(u * np.linspace(0.5, 3, 9)[:, None])
    full = jax.grad(lambda x: jnp.sum(losses.info_nce(x, jnp.asarray(v), temperature=0.2, reduction="none")))(x)
    got = gradients.anchor_gradients(x, jnp.asarray(v), temperature=0.2, tangent=True)
    np.testing.assert_allclose(got / jnp.linalg.norm(x, axis=1, keepdims=True), full, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("loss", LOSSES)
def test_terms_against_float64_loops(loss):
  u, v = batch()
  tau, t, gamma, n = 0.3, 2.0, 16.0, 7
  terms = gradients.anchor_terms(jnp.asarray(u, jnp.float32), jnp.asarray(v, jnp.float32), loss=loss, temperature=tau,
                                 labels=jnp.asarray(LABELS))
  for i in range(n):
    keep = [j for j in range(n) if (LABELS[j] != LABELS[i] if loss == "nscl" else j != i)]
    rows = {"info_nce": v[keep], "sigmoid": v[keep], "dhel": u[keep], "kcl": u[keep]}.get(
        loss, np.concatenate([v[keep], u[keep]]))
    kernel = {"kcl": np.exp(-t * (2 - 2 * rows @ u[i])), "sigmoid": 1 / (1 + np.exp(10 - rows @ u[i] / tau))}.get(
        loss, np.exp(rows @ u[i] / tau))
    w, positive = kernel / kernel.sum(), np.exp(u[i] @ v[i] / tau)
    q = kernel.sum() / (kernel.sum() + positive)
    corrected = (kernel.sum() - 0.1 * len(rows) * positive) / 0.9
    floor = len(rows) * np.exp(-1 / tau)
    debiased = kernel.sum() / 0.9 / (positive + corrected) / tau
    pull, push = {"sigmoid": (1 / (1 + positive * np.exp(-10)) / tau, kernel.sum() / tau),
                  "debiased": (debiased, debiased) if corrected > floor else (floor / (positive + floor) / tau, 0.0),
                  "info_nce": (q / tau, q / tau), "nt_xent": (q / tau, q / tau),
                  "kcl": (4 * t * np.exp(-t * (2 - 2 * u[i] @ v[i])), 2 * t * gamma * kernel.mean())
                  }.get(loss, (1 / tau, 1 / tau))
    np.testing.assert_allclose(terms.attraction[i], pull, rtol=2e-5)
    np.testing.assert_allclose(terms.repulsion[i], push, rtol=2e-5)
    np.testing.assert_allclose(terms.negative_mean[i], w @ rows, rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(terms.effective_negatives[i], 1 / (w ** 2).sum(), rtol=2e-5)


@pytest.mark.parametrize("loss", LOSSES)
def test_degenerate_batches_are_finite(loss):
  one = jnp.ones((1, 3))
  got = gradients.anchor_gradients(one, one, loss=loss, labels=jnp.zeros(1, int))
  # Without negatives: KCL's 4t = 8, the sigmoid loss's sigmoid(10 - 1/tau) / tau at its own temperature, .1.
  pull = {"kcl": -8, "sigmoid": -5}.get(loss, 0) * one / jnp.sqrt(3.0)
  np.testing.assert_allclose(got, pull, rtol=1e-6)
  for x in (jnp.zeros((4, 3)), jnp.full((4, 3), 1e30), jnp.ones((4, 3), jnp.bfloat16)):
    got = gradients.anchor_gradients(x, x, loss=loss, labels=jnp.arange(4) % 2, temperature=0.005)
    assert got.dtype == jnp.float32 and bool(jnp.isfinite(got).all())


def test_a_debiased_anchor_with_few_hard_negatives_is_not_pushed():
  """Orthogonal negatives at a perfect pair weigh less than false ones are expected to: the sum is at its floor."""
  u = np.eye(4)
  with jax.enable_x64(True):
    terms = gradients.anchor_terms(jnp.asarray(u), jnp.asarray(u), loss="debiased", temperature=0.2, prior=0.3)
    got = gradients.anchor_gradients(jnp.asarray(u), jnp.asarray(u), loss="debiased", temperature=0.2, prior=0.3)
  floor = 6 * np.exp(-5.0)
  np.testing.assert_array_equal(terms.repulsion, 0.0)
  np.testing.assert_allclose(got, -5 * floor / (np.exp(5.0) + floor) * u, rtol=1e-12)


def test_tiles_and_leading_axes_do_not_change_the_result(monkeypatch):
  u, v = (jnp.asarray(x, jnp.float32) for x in batch(n=33))
  whole = gradients.anchor_gradients(u, v)
  jax.clear_caches()  # the program of the whole batch
  monkeypatch.setattr(gradients._anchors, "TILE_ENTRIES", 33 * 10)  # tiles of 10, 10, 10 and 3 rows
  np.testing.assert_allclose(gradients.anchor_gradients(u, v), whole, rtol=1e-5, atol=1e-6)
  mapped = jax.vmap(lambda tau: gradients.anchor_gradients(u, v, temperature=tau))(jnp.array([0.1, 0.5]))
  np.testing.assert_allclose(mapped[0], whole, rtol=1e-5, atol=1e-5)


def test_errors_name_the_argument_and_the_remedy():
  u = jnp.ones((3, 2))
  for call, words in (
      (dict(loss="triplet"), "loss must be one of"),
      (dict(loss="hard_negative"), "'hard_negative' has no closed-form anchor gradient here: its weights"),
      (dict(loss="global_contrastive"), "of loss='dcl' times g/a"),
      (dict(loss="debiased", prior=1.0), "prior must be a finite number"),
      (dict(loss="sigmoid", bias=jnp.ones(3)), "bias must be a scalar"),
      (dict(loss="nscl"), "labels must be given"),
      (dict(loss="nscl", labels=jnp.zeros(3)), "labels must be integers"),
      (dict(temperature=0.0), "temperature must be a positive"),
      (dict(loss="dcl", negatives=u), "negatives"),
      (dict(negatives=jnp.ones((4, 5))), r"negatives must have shape \(k, 2\)")):
    with pytest.raises((ValueError, TypeError), match=words):
      gradients.anchor_gradients(u, u, **call)
