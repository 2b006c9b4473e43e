"""The losses against slow loops, exact values, other libraries, and inputs that break losses."""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from spectral_jax import losses
from tests import loss_oracles as oracle

# name: (loss, keywords that take arrays), and the oracle of the mean.
CASES = {
    "info_nce": (losses.info_nce, lambda u, v, y, q, t, w: oracle.mean(oracle.info_nce(u, v, t, w))),
    "info_nce_queue": (
        lambda u, v, y, q, **k: losses.info_nce(u, v, negatives=q, **k),
        lambda u, v, y, q, t, w: oracle.mean(oracle.info_nce(u, v, t, w, q))),
    "info_nce_symmetric": (
        lambda u, v, y, q, **k: losses.info_nce(u, v, negatives=q, symmetric=True, **k),
        lambda u, v, y, q, t, w: oracle.mean(oracle.info_nce_symmetric(u, v, t, w, q))),
    "nt_xent": (losses.nt_xent, lambda u, v, y, q, t, w: oracle.mean(oracle.nt_xent(u, v, t, w))),
    "dcl": (losses.dcl, lambda u, v, y, q, t, w: oracle.mean(oracle.dcl(u, v, t, w))),
    **{
        f"dhel_{e}": (
            functools.partial(losses.dhel, energy=e),
            lambda u, v, y, q, t, w, e=e: oracle.mean(oracle.dhel(u, v, t, w, e))) for e in ("anchor", "mean", "sum")
    },
    "nscl": (
        lambda u, v, y, q, **k: losses.nscl(u, v, y, **k),
        lambda u, v, y, q, t, w: oracle.mean(oracle.nscl(u, v, y, t, w, False))),
    "nscl_positive": (
        lambda u, v, y, q, **k: losses.nscl(u, v, y, positive_in_denominator=True, **k),
        lambda u, v, y, q, t, w: oracle.mean(oracle.nscl(u, v, y, t, w, True))),
    "sigmoid": (
        functools.partial(losses.sigmoid, bias=-3.0),
        lambda u, v, y, q, t, w: oracle.mean(oracle.sigmoid(u, v, t, -3.0, w))),
    "spectral_contrastive": (
        losses.spectral_contrastive, lambda u, v, y, q, t, w: oracle.mean(oracle.spectral_contrastive(u, v, w))),
    "debiased": (losses.debiased, lambda u, v, y, q, t, w: oracle.mean(oracle.hard_negative(u, v, t, 0.0, 0.1, w))),
    "hard_negative": (
        functools.partial(losses.hard_negative, beta=0.7, prior=0.05),
        lambda u, v, y, q, t, w: oracle.mean(oracle.hard_negative(u, v, t, 0.7, 0.05, w))),
    "supcon": (
        lambda u, v, y, q, **k: losses.supcon(u, v, y, **k),
        lambda u, v, y, q, t, w: oracle.mean(oracle.supcon(u, v, y, t, w))),
    **{
        f"kcl_{k}": (
            functools.partial(losses.kcl, kernel=getattr(losses.kernels, k)(p), align_kernel=align),
            lambda u, v, y, q, t, w, k=k, p=p, a=a: oracle.kcl(u, v, w, oracle.kernel(k, p), oracle.kernel(*a), 16.0))
        for k, p, align, a in (
            ("gaussian", 2.0, None, ("gaussian", 2.0)), ("log", 1.5, None, ("log", 1.5)),
            ("imq", 0.7, None, ("imq", 0.7)),
            ("riesz", -1.0, losses.kernels.gaussian(1.0), ("gaussian", 1.0)),
            ("riesz", 1.0, losses.kernels.log(1.0), ("log", 1.0)))
    },
}
TAKES_ALL = ("info_nce_queue", "info_nce_symmetric", "nscl", "nscl_positive", "supcon")


def has_temperature(name):
  return not name.startswith(("kcl", "spectral"))


def call(name, u, v, y, q, temperature, **keywords):
  loss = CASES[name][0]
  if has_temperature(name):
    keywords["temperature"] = temperature
  return loss(u, v, y, q, **keywords) if name in TAKES_ALL else loss(u, v, **keywords)


@functools.partial(jax.jit, static_argnames="names")
def values_and_slopes(u, v, y, q, temperature, where, du, dv, names=tuple(CASES)):
  """Value, derivative along (du, dv) by the gradient, and mean of the per-anchor values, of every loss at once."""
  out = {}
  for name in names:
    value, (gu, gv) = jax.value_and_grad(lambda u, v: call(name, u, v, y, q, temperature, where=where), (0, 1))(u, v)
    each = call(name, u, v, y, q, temperature, where=where, reduction="none")
    out[name] = value, jnp.sum(gu * du) + jnp.sum(gv * dv), each
  return out


def batch(rng, n, d, classes=3):
  u, v, du, dv = rng.normal(size=(4, n, d))
  v = v + u  # positives closer than chance
  return u, v, rng.integers(0, classes, n) * 7 - 3, rng.normal(size=(4, d)), du, dv


@pytest.mark.parametrize("n, d", [(1, 3), (2, 1), (7, 2), (24, 5), (9, 512)])
def test_values_and_gradients_equal_slow_loops(n, d):
  rng = np.random.default_rng(n * 1000 + d)
  u, v, y, q, du, dv = batch(rng, n, d)
  with jax.enable_x64(True):
    for where in ([True] * n, rng.random(n) > 0.3):
      where = np.asarray(where) if np.any(where) else np.ones(n, bool)
      for tau in (0.005, 0.07, 0.5, 10.0):
        got = jax.device_get(values_and_slopes(u, v, y, q, tau, where, du, dv))
        for name, (value, slope, _) in got.items():

          def loop(u, v):
            return CASES[name][1](
                oracle.normalize(u), oracle.normalize(v), y, oracle.normalize(q), tau, where)

          assert value == pytest.approx(loop(u, v), rel=1e-9, abs=1e-9), (name, tau)
          # At d = 1 rows are +-1 whatever their size: some distances are exactly 0, where Riesz kernels have no slope.
          if not (name == "kcl_riesz" and d == 1):
            assert slope == pytest.approx(oracle.derivative(loop, (u, v), (du, dv)), rel=1e-6, abs=1e-8), (name, tau)


def test_per_anchor_values_average_to_the_mean():
  rng = np.random.default_rng(0)
  u, v, y, q, du, dv = batch(rng, 24, 5)
  where = rng.random(24) > 0.3
  with jax.enable_x64(True):
    got = jax.device_get(values_and_slopes(u, v, y, q, 0.07, where, du, dv))
  for name, (value, _, each) in got.items():
    assert each.shape == (24,) and np.all(each[~where] == 0), name
    assert each[where].mean() == pytest.approx(value, rel=1e-12), name


def simplex(n, d, rng):
  corners = np.eye(n) - 1 / n
  corners /= np.linalg.norm(corners, axis=1, keepdims=True)
  basis = np.linalg.svd(corners)[2][: n - 1]  # the n - 1 directions that the corners span
  frame = np.linalg.qr(rng.normal(size=(d, n - 1)))[0]
  return corners @ basis.T @ frame.T


def test_aligned_simplex_has_its_exact_value_and_no_gradient():
  z = simplex(8, 10, np.random.default_rng(1))
  exact = {
      "info_nce": 0.1441965, "nt_xent": 0.2701967, "dcl": -1.1704665, "dhel_anchor": -1.8636137,
      "dhel_mean": -1.8636137, "dhel_sum": -0.3938940, "kcl_gaussian": -2 + 32 * math.exp(-32 / 7)}
  with jax.enable_x64(True):
    at_simplex = jax.jit(lambda z: {
        name: jax.value_and_grad(lambda u: call(name, u, z, None, None, 0.3))(z) for name in exact})(jnp.asarray(z))
    for name, value in exact.items():
      got, gradient = at_simplex[name]
      assert got == pytest.approx(value, abs=1e-7), name
      assert np.abs(gradient).max() < 1e-12, name


def test_kcl_expectation_is_the_same_at_every_batch_size_and_info_nce_is_not():
  rng = np.random.default_rng(2)
  draws = 4096

  def estimate(loss, n):
    u, v = rng.normal(size=(2, draws * 64 // n, n, 4)).astype(np.float32)
    values = np.asarray(jax.jit(jax.vmap(loss))(u, u + 0.5 * v), np.float64)
    return values.mean(), values.std() / math.sqrt(len(values))

  kcl = [estimate(losses.kcl, n) for n in (2, 3, 4, 8, 64)]
  for a in kcl:
    for b in kcl:
      assert abs(a[0] - b[0]) < 4.5 * math.hypot(a[1], b[1])
  (low, low_error), (high, high_error) = (estimate(losses.info_nce, n) for n in (2, 64))
  assert high - low > 20 * math.hypot(low_error, high_error)


def test_optax_agrees_on_two_views():
  rng = np.random.default_rng(3)
  u, v = rng.normal(size=(2, 12, 6)).astype(np.float32)
  both, labels = np.concatenate([u, v]), np.tile(np.arange(12), 2)
  theirs = optax.losses.ntxent(both, labels, temperature=0.3)
  assert losses.nt_xent(u, v, temperature=0.3) == pytest.approx(float(jnp.mean(theirs)), rel=1e-5)


def test_masks_equal_slicing_even_when_masked_rows_are_nan():
  rng = np.random.default_rng(4)
  u, v, y, q, du, dv = batch(rng, 24, 5)
  where = rng.random(24) > 0.4
  kept = int(where.sum())
  with jax.enable_x64(True):
    sliced = jax.device_get(values_and_slopes(
        u[where], v[where], y[where], q, 0.2, np.ones(kept, bool), du[where], dv[where]))
    u[~where], v[~where] = np.nan, np.inf
    du[~where] = dv[~where] = 0
    masked = jax.device_get(values_and_slopes(u, v, y, q, 0.2, where, du, dv))
  for name in CASES:
    np.testing.assert_allclose(masked[name][0], sliced[name][0], rtol=1e-12, err_msg=name)
    np.testing.assert_allclose(masked[name][1], sliced[name][1], rtol=1e-10, err_msg=name)
    np.testing.assert_allclose(masked[name][2][where], sliced[name][2], rtol=1e-10, atol=1e-13, err_msg=name)


@pytest.fixture(scope="module")
def value_and_gradients():
  """Jitted, for one shape: values and full gradients of every loss, finite differences apart."""

  @jax.jit
  def run(u, v, y, q, temperature, where):
    return {
        name: jax.value_and_grad(lambda u, v, t: call(name, u, v, y, q, t, where=where), (0, 1, 2))(u, v, temperature)
        for name in CASES}

  return run


@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
def test_hard_inputs_have_finite_values_and_gradients(value_and_gradients, dtype):
  rng = np.random.default_rng(5)
  n, d = 8, 4
  everything, nothing = np.ones(n, bool), np.zeros(n, bool)
  u, v = rng.normal(size=(2, n, d))
  same = np.ones((n, d))
  zero_row = u.copy()
  zero_row[2] = 0
  huge = u.copy()
  huge[1] *= 1e4 if dtype == "float16" else 1e30
  huge[2] *= 1e-2 if dtype == "float16" else 1e-30  # a gradient is of size 1 / norm / tau, which float16 must hold
  hard = {
      "plain": (u, v, everything), "duplicates": (same, same, everything), "opposite": (same, -same, everything),
      "zero row": (zero_row, v, everything), "all zero": (0 * u, 0 * v, everything),
      "huge and tiny": (huge, v, everything),
      "all masked": (u, v, nothing), "one left": (u, v, np.arange(n) == 3)}
  q = rng.normal(size=(3, d))
  for label, (u, v, where) in hard.items():
    for y in (np.arange(n), np.zeros(n, int)):
      for tau in (0.005, 10.0):
        got = value_and_gradients(
            jnp.asarray(u, dtype), jnp.asarray(v, dtype), jnp.asarray(y), jnp.asarray(q, dtype), jnp.float32(tau),
            where)
        for name, (value, gradients) in jax.device_get(got).items():
          assert value.dtype == np.float32
          assert np.isfinite(value), (name, label, tau)
          for g in gradients:
            assert np.all(np.isfinite(g.astype(np.float32))), (name, label, tau)
          if label == "all masked":
            assert value == 0 and not any(np.any(g) for g in gradients), name
          if label == "zero row":
            assert not np.any(gradients[0][2]), name


def test_nan_or_inf_in_is_nan_out_and_masked_rows_may_hold_anything(value_and_gradients):
  rng = np.random.default_rng(9)
  n = 8
  u, v, q = (rng.normal(size=shape).astype(np.float32) for shape in ((n, 4), (n, 4), (3, 4)))
  everything = np.ones(n, bool)
  for bad in (np.nan, np.inf, -np.inf):
    for y in (np.arange(n), np.zeros(n, int)):
      broken = u.copy()
      broken[2, 1] = bad
      for arguments in ((broken, v), (u, broken), (np.full_like(u, bad), np.full_like(u, bad))):
        for where in (everything, np.arange(n) == 2):  # with negatives, and without any
          got = jax.device_get(value_and_gradients(*arguments, y, q, np.float32(0.1), where))
          for name, (value, (du, dv, dt)) in got.items():
            assert np.isnan(value), (name, bad)
            assert np.isnan(du[2]).any() and np.isnan(dv[2]).any(), (name, bad)
        got = jax.device_get(value_and_gradients(*arguments, y, q, np.float32(0.1), np.arange(n) < 2))
        if np.isfinite(arguments[0][0]).all():
          for name, leaves in got.items():
            assert all(np.all(np.isfinite(x)) for x in jax.tree.leaves(leaves)), (name, bad)


@pytest.mark.parametrize("loss", [losses.info_nce, losses.dcl, losses.dhel, losses.kcl])
def test_inf_is_nan_out_without_normalization_too(loss):
  u, v = np.random.default_rng(10).normal(size=(2, 4, 3)).astype(np.float32)
  u[1] = -np.inf
  value, gradient = jax.jit(jax.value_and_grad(functools.partial(loss, normalize=False)))(u, v)
  assert np.isnan(value) and np.all(np.isnan(gradient[1]))


def test_a_queue_with_nan_is_nan_out():
  u, v, q = np.random.default_rng(11).normal(size=(3, 4, 3)).astype(np.float32)
  q[1, 0] = np.nan
  assert np.isnan(losses.info_nce(u, v, negatives=q)) and np.isnan(losses.info_nce(u, v, negatives=q, normalize=False))


@pytest.mark.parametrize("scale", [1e-38, 3.4e38])
def test_the_ends_of_the_number_range_are_only_a_scale(value_and_gradients, scale):
  rng = np.random.default_rng(12)
  u, v = rng.uniform(-1, 1, size=(2, 8, 4)).astype(np.float32)
  u[:, 0] = v[:, 0] = 1.0
  q, y, where = rng.normal(size=(3, 4)).astype(np.float32), np.arange(8), np.ones(8, bool)
  scaled = (u.astype(np.float64) * scale).astype(np.float32)
  plain, same = (jax.device_get(value_and_gradients(x, v, y, q, np.float32(0.3), where)) for x in (u, scaled))
  for name in CASES:
    assert same[name][0] == pytest.approx(plain[name][0], rel=1e-5), name
    np.testing.assert_allclose(same[name][1][1], plain[name][1][1], rtol=1e-3, atol=1e-5, err_msg=name)
    if scale < 1:
      fits = np.abs(plain[name][1][0]) < 1  # the gradient is 1e38 times larger: it may truly overflow
      np.testing.assert_allclose(
          (same[name][1][0] * np.float64(scale))[fits], plain[name][1][0][fits], rtol=1e-3, atol=1e-4, err_msg=name)


def test_temperature_is_learnable():
  rng = np.random.default_rng(6)
  u, v, y, q, _, _ = batch(rng, 7, 3)
  names = [name for name in CASES if has_temperature(name)]
  with jax.enable_x64(True):
    where = np.ones(7, bool)
    slopes = jax.jit(lambda t: {
        name: jax.grad(lambda t: call(name, u, v, y, q, t))(t) for name in names})(jnp.float64(0.3))
    for name in names:
      point = oracle.normalize(u), oracle.normalize(v), oracle.normalize(q)
      loop = lambda t: CASES[name][1](point[0], point[1], y, point[2], t, where)
      assert slopes[name] == pytest.approx(oracle.derivative(loop, (0.3,), (1.0,)), rel=1e-9), name


def test_bias_hardness_and_prior_are_learnable_too():
  rng = np.random.default_rng(13)
  u, v = oracle.normalize(rng.normal(size=(6, 3))), oracle.normalize(rng.normal(size=(6, 3)))
  where = [True] * 6
  with jax.enable_x64(True):
    bias = jax.grad(lambda b: losses.sigmoid(u, v, bias=b, temperature=0.4))(-1.5)
    beta, prior = jax.grad(
        lambda b, p: losses.hard_negative(u, v, beta=b, prior=p, temperature=0.4), (0, 1))(
            jnp.float64(0.6), jnp.float64(0.03))
  loop = lambda b: oracle.mean(oracle.sigmoid(u, v, 0.4, b, where))
  assert bias == pytest.approx(oracle.derivative(loop, (-1.5,), (1.0,)), rel=1e-9)
  loop = lambda b: oracle.mean(oracle.hard_negative(u, v, 0.4, b, 0.03, where))
  assert beta == pytest.approx(oracle.derivative(loop, (0.6,), (1.0,)), rel=1e-8)
  loop = lambda p: [oracle.mean(oracle.hard_negative(u, v, 0.4, 0.6, p + h, where)) for h in (1e-6, -1e-6)]
  assert prior == pytest.approx(np.subtract(*loop(0.03)) / 2e-6, rel=1e-6)


def test_without_hardness_and_prior_both_are_nt_xent_and_the_prior_bounds_what_is_left():
  u, v = np.random.default_rng(14).normal(size=(2, 9, 4)).astype(np.float32)
  expected = jax.value_and_grad(losses.nt_xent)(u, v)
  for loss in (functools.partial(losses.debiased, prior=0.0), functools.partial(losses.hard_negative, beta=0.0)):
    value, gradient = jax.value_and_grad(loss)(u, v)
    assert value == pytest.approx(float(expected[0]), rel=1e-6)
    np.testing.assert_allclose(gradient, expected[1], atol=1e-6)
  # Perfect pairs far from all others: more would be subtracted than is there, and the floor N exp(-1/tau) holds.
  value = losses.debiased(np.eye(4, dtype=np.float32), np.eye(4, dtype=np.float32), prior=0.9, temperature=0.5)
  assert value == pytest.approx(math.log1p(6 * math.exp(-2) / math.exp(2)), rel=1e-5)


def test_float64_stays_float64_and_no_normalization_keeps_lengths():
  rng = np.random.default_rng(7)
  u, v = rng.normal(size=(2, 6, 3)) * 0.4
  with jax.enable_x64(True):
    value = losses.nt_xent(u, v, normalize=False, temperature=0.3)
    assert value.dtype == jnp.float64
    assert value == pytest.approx(oracle.mean(oracle.nt_xent(u, v, 0.3, [True] * 6)), rel=1e-12)
    k = losses.kernels.imq(0.5)
    expected = oracle.kcl(u, v, [True] * 6, oracle.kernel("imq", 0.5), oracle.kernel("imq", 0.5), 16.0)
    assert losses.kcl(u, v, kernel=k, normalize=False) == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("loss", [losses.info_nce, losses.nt_xent, losses.dhel, losses.kcl])
def test_transformations_compose(loss):
  rng = np.random.default_rng(8)
  u, v = jnp.asarray(rng.normal(size=(2, 3, 6, 4)), jnp.float32)

  @jax.jit
  def everything(u, v):
    first = lambda a: loss(a, v[0])
    return {
        "one by one": jnp.stack([loss(u[i], v[i]) for i in range(2)]),
        "vmap": jax.vmap(loss)(u, v),
        "scan": jax.lax.scan(lambda c, ab: (c, loss(*ab)), 0, (u, v))[1],
        "gradient": jax.grad(first)(u[0]),
        "checkpoint": jax.grad(jax.checkpoint(first))(u[0]),
        "jvp": jax.jvp(first, (u[0],), (u[1],))[1],
        "hessian": jax.hessian(first)(u[0]),
    }

  got = everything(u, v)
  np.testing.assert_allclose(got["vmap"], got["scan"], rtol=1e-5)
  np.testing.assert_allclose(got["vmap"][:2], got["one by one"], rtol=1e-5)
  np.testing.assert_allclose(got["checkpoint"], got["gradient"], rtol=1e-4, atol=1e-6)
  assert got["jvp"] == pytest.approx(float(jnp.sum(got["gradient"] * u[1])), rel=1e-4, abs=1e-5)
  hessian = got["hessian"].reshape(24, 24)
  assert np.all(np.isfinite(hessian))
  np.testing.assert_allclose(hessian, hessian.T, atol=1e-4)


U = np.eye(4, dtype=np.float32)


@pytest.mark.parametrize("error, words, function", [
    (ValueError, r"u must have shape \(n, d\), got \(4,\)", lambda: losses.info_nce(U[0], U[0])),
    (ValueError, r"u and v must have the same shape.*\(4, 4\) and \(3, 4\)", lambda: losses.nt_xent(U, U[:3])),
    (TypeError, r"u must hold floating-point numbers, got dtype int32", lambda: losses.dcl(U.astype(np.int32), U)),
    (ValueError, r"temperature must be a positive finite number, got 0",
     lambda: losses.info_nce(U, U, temperature=0.0)),
    (ValueError, r"temperature must be a scalar", lambda: losses.info_nce(U, U, temperature=np.ones(2))),
    (ValueError, r"labels must have shape \(4,\).*got \(3,\)", lambda: losses.nscl(U, U, np.arange(3))),
    (TypeError, r"labels must be integers", lambda: losses.supcon(U, U, np.ones(4))),
    (ValueError, r"where must have shape \(4,\)", lambda: losses.nt_xent(U, U, where=np.ones(3, bool))),
    (TypeError, r"where must be boolean", lambda: losses.nt_xent(U, U, where=np.ones(4))),
    (ValueError, r"energy must be one of 'anchor', 'mean', 'sum'", lambda: losses.dhel(U, U, energy="max")),
    (ValueError, r"reduction must be one of", lambda: losses.dhel(U, U, reduction="sum")),
    (ValueError, r"negatives must have shape \(k, 4\)", lambda: losses.info_nce(U, U, negatives=np.ones((2, 3)))),
    (ValueError, r"tile_size must be a positive integer", lambda: losses.info_nce(U, U, tile_size=0)),
    (TypeError, r"matmul_dtype must be a floating-point", lambda: losses.info_nce(U, U, matmul_dtype=np.int8)),
    (TypeError, r"matmul_dtype must be a floating-point dtype such as", lambda: losses.dcl(U, U, matmul_dtype="fp16")),
    (TypeError, r"u must be an array of numbers, got an array of dtype <U", lambda: losses.dcl(U.astype(str), U)),
    (ValueError, r"v must be an array of numbers, got a list", lambda: losses.dcl(U, [[1.0], [1.0, 0.0]])),
    (TypeError, r"labels must be an array of numbers, got a list.*number the classes", lambda: losses.nscl(U, U, ["cat", "cat", "dog", "dog"])),
    (TypeError, r"labels must be an array of numbers, got an array of dtype <U1.*number the classes", lambda: losses.supcon(U, U, np.array(list("abcd")))),
    (TypeError, r"loss must be a loss function such as losses.nt_xent, got 'nt_xent'",
     lambda: losses.sharded("nt_xent", None)),
    (ValueError, r"align_kernel must be finite.*align_kernel=",
     lambda: losses.kcl(U, U, kernel=losses.kernels.riesz(1.0))),
    (ValueError, r"s must lie in \(-2, 0\) or above 0, got 0", lambda: losses.kernels.riesz(0.0)),
    (ValueError, r"s must lie in \(-2, 0\) or above 0, got -2", lambda: losses.kernels.riesz(-2.0)),
    (ValueError, r"t must be a positive finite number", lambda: losses.kernels.gaussian(-1.0)),
    (TypeError, r"kernel must be a function", lambda: losses.kcl(U, U, kernel="gaussian")),
    (ValueError, r"bias must be a finite number in \[-inf, inf\), got inf",
     lambda: losses.sigmoid(U, U, bias=math.inf)),
    (ValueError, r"prior must be a finite number in \[0, 1\), got 1", lambda: losses.debiased(U, U, prior=1.0)),
    (ValueError, r"beta must be a finite number in \[0, inf\), got -1", lambda: losses.hard_negative(U, U, beta=-1.0)),
    (TypeError, r"temperature must be a number, got None", lambda: losses.nt_xent(U, U, temperature=None)),
    (ValueError, r"gamma must be a positive finite number", lambda: losses.kcl(U, U, gamma=-1.0)),
])
def test_bad_input_names_the_argument(error, words, function):
  with pytest.raises(error, match=words):
    function()


def test_static_errors_are_raised_under_jit():
  with pytest.raises(ValueError, match="same shape"):
    jax.jit(losses.nt_xent)(U, U[:3])
  with pytest.raises(ValueError, match="labels must have shape"):
    jax.jit(losses.supcon)(U, U, np.arange(3))
