"""Gradients, bounds, spectra and metrics called eagerly: a second call compiles nothing and is nearly as fast."""

import functools
import time

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from spectral_jax import bounds, gradients, metrics, spectrum
from tests.test_eager import compilations

OPTIMIZED = True  # times are compared

U, V = jnp.asarray(np.random.default_rng(0).normal(size=(2, 64, 8)), jnp.float32)
Y = np.arange(64) % 4
CALLS = {
    "anchor_terms": functools.partial(gradients.anchor_terms, U, V, temperature=0.2),
    "anchor_gradients": functools.partial(gradients.anchor_gradients, U, V, loss="nscl", labels=Y, tangent=True),
    "anchor_band": functools.partial(bounds.anchor_band, U, V, negatives=U[:5]),
    "anchor_band apriori": functools.partial(bounds.anchor_band, U, V, loss="kcl", t=1.5, kind="apriori", leading=2),
    "band_terms": functools.partial(bounds.band_terms, U, V, loss="dhel"),
    "batch_band": functools.partial(bounds.batch_band, U, V, temperature=0.2),
    "batch_band singular": functools.partial(bounds.batch_band, U, V, kind="singular"),
    "eigenvalues": functools.partial(spectrum.eigenvalues, U, center=True),
    "effective_rank": functools.partial(spectrum.effective_rank, U),
    "effective_ranks": functools.partial(spectrum.effective_ranks, U),
    **{f"whiten {method}": functools.partial(spectrum.whiten, U, method=method, shrinkage=0.01)
       for method in ("zca", "cholesky", "newton_schulz")},
    "knn_accuracy": functools.partial(metrics.knn_accuracy, U, Y, V, Y, k=3),
    "uniformity": functools.partial(metrics.uniformity, U),
    "alignment": functools.partial(metrics.alignment, U, V, alpha=1)}


@pytest.mark.parametrize("name", CALLS)
def test_a_second_call_compiles_nothing(name):
  call = CALLS[name]
  first = call()
  with compilations() as seen:
    second = call()
  assert not seen
  chex.assert_trees_all_equal(first, second)


def test_another_temperature_compiles_nothing():
  with compilations() as seen:
    bounds.anchor_band(U[:16], V[:16], temperature=0.3)
  assert seen  # the listener hears compilations
  with compilations() as seen:
    values = [bounds.anchor_band(U[:16], V[:16], temperature=tau).value for tau in (0.1, 0.2)]
  assert not seen and not np.allclose(*values)


def test_a_second_call_takes_little_longer_than_a_jitted_one():
  for name in ("anchor_band", "knn_accuracy", "uniformity", "whiten newton_schulz"):
    forms = {"eager": CALLS[name], "jitted": jax.jit(CALLS[name])}
    times = {form: [] for form in forms}
    for form, call in 30 * list(forms.items()):
      start = time.perf_counter()
      jax.block_until_ready(call())
      times[form].append(time.perf_counter() - start)
    eager, jitted = min(times["eager"]), min(times["jitted"])  # what else the machine does only adds
    assert eager <= 2 * jitted + 1e-3, (name, eager, jitted)


def test_eager_errors_are_those_of_the_functions():
  for call, words in (
      (lambda: gradients.anchor_terms(U, V, temperature=-1.0), "temperature must be a positive finite number, got -1"),
      (lambda: bounds.anchor_band(U, V, temperature=jnp.zeros(3)), r"temperature must be a scalar, got shape \(3,\)"),
      (lambda: bounds.anchor_band(U, V, loss="kcl", t=0.0), "t must be a positive finite number, got 0"),
      (lambda: bounds.batch_band(U, V, temperature=float("nan")), "temperature must be a positive finite number"),
      (lambda: bounds.band_terms(U, V[:3]), "u and v must have the same shape"),
      (lambda: spectrum.effective_rank(U, kind=["entropy"]), "kind must be one of"),
      (lambda: spectrum.whiten(U, shrinkage=-0.5), r"shrinkage must lie in \[0, 1\], got -0.5"),
      (lambda: metrics.uniformity(U, t=-2), "t must be a positive finite number, got -2"),
      (lambda: metrics.alignment(U, V, alpha=0), "alpha must be a positive finite number, got 0"),
      (lambda: metrics.knn_accuracy(U, Y, V, Y, k=0), "k must be at least 1, got 0")):
    with pytest.raises(ValueError, match=words):
      call()
  with pytest.raises(TypeError, match="unexpected keyword argument 'temprature'"):
    bounds.anchor_band(U, V, temprature=0.1)
  with pytest.raises(TypeError, match="z must hold floating-point numbers, got dtype int32"):
    spectrum.eigenvalues(jnp.ones((3, 2), int))


def test_traced_settings_still_work():
  """`alpha` and `shrinkage` are compared by value when they are numbers, and taken as they are when traced."""
  got = jax.jit(lambda alpha: metrics.alignment(U, V, alpha=alpha))(3.0)
  np.testing.assert_allclose(got, metrics.alignment(U, V, alpha=3.0), rtol=1e-6)
  got = jax.jit(lambda s: spectrum.whiten(U, shrinkage=s))(0.01)
  np.testing.assert_allclose(got, spectrum.whiten(U, shrinkage=0.01), rtol=1e-4, atol=1e-5)
