"""Effective ranks and whitening against float64 NumPy, as properties, and on degenerate batches."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings, strategies as st
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from spectral_jax import spectrum

KINDS = ("entropy", "rankme", "participation", "stable")
METHODS = ("zca", "cholesky", "newton_schulz")
ranks = jax.jit(spectrum.effective_ranks, static_argnames="center")


def slow_rank(z, kind, center):
  z = z - z.mean(0) if center else z
  sigma = np.linalg.svd(z, compute_uv=False)
  p = sigma / sigma.sum() + 1e-7 if kind == "rankme" else sigma ** 2 / (sigma ** 2).sum()
  if kind == "stable":
    return 1 / p.max()
  if kind == "participation":
    return 1 / (p ** 2).sum()
  p = p[p > 0]
  return np.exp(-(p * np.log(p)).sum())


@pytest.mark.parametrize("shape", [(40, 6), (5, 17)])
def test_ranks_against_numpy(shape):
  z = np.random.default_rng(0).normal(size=shape) * np.linspace(0.1, 3, shape[1]) + 1
  for center in (False, True):
    # Centering takes a dimension away when n <= d; RankMe sees that singular value's rounding.
    for kind in KINDS:
      got = spectrum.effective_rank(jnp.asarray(z, jnp.float32), kind=kind, center=center)
      np.testing.assert_allclose(got, slow_rank(z, kind, center), rtol=1e-4)
      np.testing.assert_allclose(got, ranks(jnp.asarray(z, jnp.float32), center=center)[kind], rtol=1e-5)
    got = spectrum.eigenvalues(jnp.asarray(z, jnp.float32), center=center)
    want = np.linalg.svd(z - z.mean(0) * center, compute_uv=False) ** 2 / len(z)
    np.testing.assert_allclose(got, want, rtol=1e-4, atol=1e-5 * want[0])
    assert got.shape == (min(shape),) and bool((jnp.diff(got) <= 0).all())


def test_rankme_is_as_published_to_the_last_digit():
  z = np.random.default_rng(0).normal(size=(40, 6))
  with jax.enable_x64(True):
    np.testing.assert_allclose(spectrum.effective_rank(z, kind="rankme"), slow_rank(z, "rankme", False), rtol=1e-12)


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 10 ** 6), st.floats(0, 4), st.floats(-20, 20), st.integers(1, 8), st.booleans())
def test_chain_of_ranks(seed, decay, log_scale, rank, center):
  rng = np.random.default_rng(seed)
  z = rng.normal(size=(12, rank)) @ (rng.normal(size=(rank, 8)) * np.arange(1, 9) ** -decay) * 10.0 ** log_scale
  r = {k: float(x) for k, x in ranks(jnp.asarray(z, jnp.float32), center=center).items()}
  slack = 1 + 1e-5
  assert 1 / slack <= r["stable"] <= r["participation"] * slack <= r["entropy"] * slack ** 2 <= rank * slack ** 3
  assert r["entropy"] <= r["rankme"] * slack


@pytest.mark.parametrize("kind", KINDS)
def test_degenerate_ranks_and_their_gradients(kind):
  rank = jax.jit(functools.partial(spectrum.effective_rank, kind=kind), static_argnames="center")
  gradient = jax.jit(jax.grad(lambda z, center: rank(z, center=center)), static_argnums=1)
  for z, plain, centered in (
      (jnp.eye(6, 4), 4, None), (jnp.ones((6, 4)), 1, 0), (jnp.full((6, 4), 1e30), 1, 0), (jnp.zeros((6, 4)), 0, 0),
      (1e-30 * jnp.eye(6, 4), 4, None), (jnp.tile(jnp.array([0.1, 0.7, -1.3, 1 / 3]), (7, 1)), 1, 0)):
    np.testing.assert_allclose(rank(z), plain, atol=1e-4)
    if centered is not None:
      assert float(rank(z, center=True)) == centered
    for center in (False, True):
      assert bool(jnp.isfinite(gradient(z, center)).all())
  assert float(spectrum.effective_rank(jnp.ones((1, 3)), kind=kind, center=True)) == 0


def test_eigenvalue_gradients_at_ties():
  z = jnp.concatenate([jnp.eye(4), jnp.eye(4)])
  got = jax.grad(lambda z: jnp.sum(spectrum.eigenvalues(z) ** 2))(z)
  np.testing.assert_allclose(got, 4 / 8 * z * 0.25, atol=1e-6)  # d sum l^2 = 4/n z C, C = I/4
  values = spectrum.eigenvalues(jnp.full((3, 2), 1e30))
  assert float(values[0]) == float(jnp.finfo(jnp.float32).max)  # saturates, does not overflow


@pytest.mark.parametrize("scale", (1e-10, 1e10, 1e18, 1e19))
@pytest.mark.parametrize("shape", ((6, 4), (3, 5)))
def test_eigenvalue_gradients_at_any_scale(scale, shape):
  """`dl_k/dz = 2/n z q_k q_k^T`, in float64 NumPy; at 1e19 the scale's square overflows, the eigenvalues do not."""
  z = np.random.default_rng(0).normal(size=shape).astype(np.float32)
  weights = np.arange(1, min(shape) + 1)
  for center in (False, True):
    gradient = jax.grad(lambda z: jnp.sum(weights * spectrum.eigenvalues(z, center=center)))(z * np.float32(scale))
    rows = np.float64(z) - np.float64(z).mean(0) * center
    vectors = np.linalg.svd(rows)[2][:min(shape)]
    want = sum(w * 2 / len(z) * rows @ np.outer(q, q) for w, q in zip(weights, vectors))
    np.testing.assert_allclose(gradient / scale, want, rtol=2e-4, atol=2e-5)


def test_eigenvalue_gradients_where_they_saturate():
  z = jnp.array([[1e30, 0.0], [0.0, 1e30], [0.0, 0.0]])
  assert not jax.grad(lambda z: jnp.sum(spectrum.eigenvalues(z)))(z).any()
  gradient = jax.grad(lambda z: jnp.sum(spectrum.eigenvalues(z)))(jnp.array([[1e23, 0.0], [0.0, 1e19]]))
  np.testing.assert_allclose(gradient, [[0, 0], [0, 1e19]], rtol=1e-5)


def test_second_derivatives_of_eigenvalues():
  rng = np.random.default_rng(0)
  z, direction = rng.normal(size=(2, 7, 3))
  with jax.enable_x64(True):
    slope = jax.jit(jax.grad(lambda z: jnp.sum(jnp.arange(1, 4) * spectrum.eigenvalues(z) ** 2)))
    got = jax.jvp(slope, (jnp.asarray(z),), (jnp.asarray(direction),))[1]
    step = 1e-5
    np.testing.assert_allclose(got, (slope(z + step * direction) - slope(z - step * direction)) / (2 * step), rtol=1e-5,
                               atol=1e-7)


@pytest.mark.parametrize("method", METHODS)
def test_whitened_covariance(method):
  rng = np.random.default_rng(0)
  z = rng.normal(size=(60, 7)) @ rng.normal(size=(7, 7)) + 5
  with jax.enable_x64(True):
    w = np.asarray(spectrum.whiten(jnp.asarray(z), method=method, shrinkage=0.0))
    np.testing.assert_allclose(w.T @ w / 60, np.eye(7), atol=1e-9)
    np.testing.assert_allclose(w.mean(0), 0, atol=1e-12)
    shrunk = np.asarray(spectrum.whiten(jnp.asarray(z), method=method, shrinkage=0.1))
  centered = z - z.mean(0)
  sigma = centered.T @ centered / 60
  a = 0.9 * sigma + 0.1 * np.trace(sigma) / 7 * np.eye(7)
  values, vectors = np.linalg.eigh(a)
  root = np.linalg.inv(np.linalg.cholesky(a)).T if method == "cholesky" else vectors / np.sqrt(values) @ vectors.T
  np.testing.assert_allclose(shrunk, centered @ root, rtol=1e-7, atol=1e-9)


@pytest.mark.parametrize("method", METHODS)
def test_whitening_differentiates_at_ties_too(method):
  """At repeated eigenvalues (a scaled Hadamard design) against finite differences in float64."""
  h = np.array([[1, 1], [1, -1]])
  z = np.kron(np.kron(h, h), h)[:, 1:4].astype(float)  # covariance exactly I
  rng = np.random.default_rng(0)
  target, direction = rng.normal(size=z.shape), rng.normal(size=z.shape)
  with jax.enable_x64(True):
    f = jax.jit(lambda z: jnp.sum(target * spectrum.whiten(z, method=method)))
    gradient = jax.jit(jax.grad(f))(jnp.asarray(z))
    step = 1e-5
    slope = (f(z + step * direction) - f(z - step * direction)) / (2 * step)
    np.testing.assert_allclose(jnp.sum(gradient * direction), slope, rtol=1e-7)


@pytest.mark.parametrize("method", METHODS)
def test_whitening_of_degenerate_batches(method):
  whiten = jax.jit(functools.partial(spectrum.whiten, method=method))
  gradient = jax.jit(jax.grad(lambda z: jnp.sum(jnp.sin(whiten(z)))))
  low_rank = jnp.outer(jnp.arange(6.0), jnp.arange(1.0, 5))
  for z in (jnp.ones((6, 4)), jnp.full((6, 4), 1e30), jnp.zeros((6, 4)), low_rank, 1e30 * low_rank, 1e-25 * low_rank):
    w = whiten(z)
    assert bool(jnp.isfinite(w).all()) and bool(jnp.isfinite(gradient(z)).all())
    if jnp.ptp(z) == 0:
      assert not w.any()
  np.testing.assert_allclose(whiten(1e30 * low_rank), whiten(low_rank), rtol=1e-4, atol=1e-5)
  assert not spectrum.whiten(jnp.ones((1, 4)), method=method).any()
  assert spectrum.whiten(jnp.ones((3, 2), jnp.bfloat16), method=method).dtype == jnp.float32


@pytest.mark.parametrize("method", METHODS)
def test_statistics_are_those_of_the_global_batch(method):
  mesh = Mesh(np.asarray(jax.devices()[:8]), ("data",))
  z = jax.random.normal(jax.random.key(0), (64, 6)) * jnp.arange(1.0, 7)
  whiten = functools.partial(spectrum.whiten, method=method)
  sharded = jax.jit(whiten)(jax.device_put(z, NamedSharding(mesh, PartitionSpec("data"))))
  np.testing.assert_allclose(sharded, whiten(z), rtol=1e-4, atol=1e-5)
  local = jax.shard_map(whiten, mesh=mesh, in_specs=PartitionSpec("data"), out_specs=PartitionSpec("data"))(z)
  np.testing.assert_allclose(local[:8], whiten(z[:8]), rtol=1e-4, atol=1e-5)  # each device its own rows


def test_newton_schulz_uses_matrix_products_only():
  text = str(jax.make_jaxpr(functools.partial(spectrum.whiten, method="newton_schulz"))(jnp.ones((8, 4))))
  assert "dot_general" in text
  for decomposition in ("eigh", "cholesky", "svd", "triangular_solve", "qr", "lu"):
    assert f" {decomposition}" not in text


def test_errors():
  with pytest.raises(ValueError, match="method must be one of"):
    spectrum.whiten(jnp.ones((2, 2)), method="pca")
  with pytest.raises(ValueError, match="shrinkage must lie"):
    spectrum.whiten(jnp.ones((2, 2)), shrinkage=2.0)
  with pytest.raises(ValueError, match="kind must be one of"):
    spectrum.effective_rank(jnp.ones((2, 2)), kind="numerical")
  with pytest.raises(TypeError, match="z must hold floating"):
    spectrum.eigenvalues(jnp.ones((2, 2), int))
