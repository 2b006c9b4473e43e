"""Bands hold every gradient, by proof and on a million anchors; terms and optima against float64 loops."""

import functools
import inspect

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from spectral_jax import bounds, gradients, losses, validate

OPTIMIZED = True  # long loops, or sizes that the compiler decides

LABELS = jnp.arange(12) % 3


def batch(n=12, d=5, seed=0, noise=0.7):
  rng = np.random.default_rng(seed)
  u = rng.normal(size=(n, d))
  unit = lambda x: x / np.linalg.norm(x, axis=1, keepdims=True)
  return unit(u), unit(u + noise * rng.normal(size=(n, d)))


def own_negatives(u, v, loss, i, labels):
  keep = labels != labels[i] if loss == "nscl" else np.arange(len(u)) != i
  return {"info_nce": v[keep], "dhel": u[keep], "kcl": u[keep]}.get(loss, np.concatenate([v[keep], u[keep]]))


@pytest.mark.parametrize("leading", [0, 8])
def test_the_plugin_band_is_inside_the_three_term_band(leading):
  with jax.enable_x64(True):
    u, v = batch(n=32, d=12, noise=0.3)
    inner = bounds.anchor_band(u, v, temperature=0.2, leading=leading)
    outer = bounds.three_term_band(bounds.band_terms(u, v, temperature=0.2))
    assert (inner.lower >= outer.lower).all() and (inner.upper <= outer.upper).all()


def test_the_apriori_band_holds_where_the_weights_spread_as_far_as_they_can():
  # One of 21 negatives lies ln 20 above the others: its softmax weight is 1/2, and chi^2 is sinh^2 of half the range.
  near, far = np.array([1.0, 0.0]), np.array([np.cos(0.5), np.sin(0.5)])
  v = np.stack([far] * 21 + [near])
  u = np.stack([near] + list(batch(n=21, d=2)[0]))
  temperature = float(near @ (near - far) / np.log(20))
  with jax.enable_x64(True):
    band = bounds.anchor_band(u, v, temperature=temperature, kind="apriori")
    assert (band.lower <= band.value).all() and (band.value <= band.upper).all()
    assert band.upper[0] < 1.06 * band.value[0]


def test_the_apriori_band_holds_where_the_strength_ranges_far_and_the_mean_hardly():
  # Negatives in a narrow fan: softmax weights move their mean little, but the greatest similarity would more than double q.
  at = lambda angle: np.stack([np.cos(angle), np.sin(angle)], axis=-1)
  fan = at(-1 + np.linspace(-0.05, 0.05, 21))
  with jax.enable_x64(True):
    band = bounds.anchor_band(np.vstack([at(0.0), fan]), np.vstack([at(0.6), fan]), temperature=0.05, kind="apriori")
    assert (band.lower <= band.value).all() and (band.value <= band.upper).all()
    assert band.lower[0] > 0.5 * band.value[0]  # squared norms


def test_no_three_term_bound_exceeds_pull_and_push_together():
  with jax.enable_x64(True):
    terms = bounds.band_terms(*batch(n=32, d=3, noise=2.0), temperature=0.05)
    size = terms.attraction + terms.repulsion
    rho = terms.repulsion * jnp.sqrt(terms.anisotropy * terms.variance)
    assert (terms.alignment + rho > 1.1 * size).any()  # else it would say nothing
    np.testing.assert_array_less(bounds.three_term_band(terms).upper, size ** 2 * (1 + 1e-9))


def test_the_three_term_band_knows_the_gradient_along_the_mean():
  with jax.enable_x64(True):
    terms = bounds.band_terms(*batch(n=32, d=3, noise=2.0), temperature=0.2)
    rho = terms.repulsion * jnp.sqrt(terms.anisotropy * terms.variance)
    assert (terms.alignment - rho < jnp.abs(terms.along) - 1e-3).any()  # else it would say nothing
    band = bounds.three_term_band(terms)
    np.testing.assert_array_less(terms.along ** 2, band.lower + 1e-12)


CASES = [  # loss, kind, n, d, batches at a time, times: a million anchors in all
    ("info_nce", "plugin", 17, 8, 1024, 12), ("nt_xent", "plugin", 64, 32, 256, 8), ("dhel", "plugin", 2, 2, 4096, 16),
    ("kcl", "plugin", 24, 4, 1024, 8), ("nscl", "plugin", 17, 8, 1024, 12), ("info_nce", "apriori", 17, 8, 1024, 8),
    ("kcl", "apriori", 24, 4, 1024, 6), ("sigmoid", "plugin", 17, 8, 256, 1), ("sigmoid", "apriori", 17, 8, 256, 1),
    ("debiased", "plugin", 17, 8, 256, 1)]


@pytest.mark.parametrize("loss, kind, n, d, batches, times", CASES)
def test_every_gradient_lies_inside_its_band(loss, kind, n, d, batches, times):
  """Random and adversarial batches, in float32, compared without any tolerance."""
  for key in range(times):
    assert int(validate.containment(jax.random.key(key), loss=loss, kind=kind, n=n, d=d, batches=batches)) == 0


def test_a_million_anchors_are_checked():
  assert sum(n * batches * times for _, _, n, _, batches, times in CASES) >= 1_000_000


def test_tightness():
  """Medians over sizes, dimensions, temperatures, noise and anisotropy, as norms."""
  ratios = []
  for n, d in ((16, 8), (96, 64)):
    @jax.jit
    @jax.vmap
    def ratio(key, tau, noise, anisotropy):
      u, v = validate.synthetic_batch(key, n, d, anisotropy=anisotropy, noise=noise)
      band = bounds.anchor_band(u, v, temperature=tau)
      return jnp.sqrt(band.upper / band.value), jnp.sqrt(band.lower / band.value)

    grid = np.array(np.meshgrid([0.05, 0.1, 0.2, 0.5, 1.0], [0.1, 0.5, 1.0], [0.0, 0.5, 1.0])).reshape(3, -1)
    # Medians of each setting first, so that large batches do not outvote small ones.
    ratios.append(np.median(ratio(jax.random.split(jax.random.key(n), grid.shape[1]), *grid), axis=-1))
  upper, lower = np.median(np.concatenate(ratios, axis=1), axis=1)
  assert 1 <= upper <= 1.1 and 0.95 <= lower <= 1, (upper, lower)


@pytest.mark.parametrize("loss", ("info_nce", "nscl", "kcl"))
def test_terms_against_float64_loops(loss):
  u, v = batch()
  labels = np.asarray(LABELS)
  terms = bounds.band_terms(jnp.asarray(u, jnp.float32), jnp.asarray(v, jnp.float32), loss=loss, temperature=0.3,
                            labels=LABELS, t=1.5)
  scale = 3.0 if loss == "kcl" else 1 / 0.3
  for i in range(len(u)):
    z = own_negatives(u, v, loss, i, labels)
    w = np.exp(scale * z @ u[i])
    w /= w.sum()
    g = terms.repulsion[i] * (w @ z) - terms.attraction[i] * v[i]
    size = float(terms.repulsion[i])
    np.testing.assert_allclose(terms.alignment[i], np.linalg.norm(terms.attraction[i] * v[i] - size * z.mean(0)),
                               rtol=1e-5, atol=1e-5 * size)
    np.testing.assert_allclose(terms.variance[i], len(z) * (w ** 2).sum() - 1, rtol=1e-4)
    np.testing.assert_allclose(terms.value[i], np.linalg.norm(g), rtol=1e-4)
    np.testing.assert_allclose(terms.along[i], g @ u[i], rtol=1e-3, atol=1e-5 * size)
    top = np.linalg.eigvalsh(np.cov(z.T, bias=True))[-1]
    rows = 24 if loss == "nscl" else 12
    assert top <= float(terms.anisotropy[i]) and float(terms.anisotropy[i]) <= 1.5 * top * rows / len(z)


@pytest.mark.parametrize("leading", (0, 2))
def test_regression_band_against_a_float64_loop(leading):
  u, v = batch(n=20, d=6)
  tau, n = 0.2, 20
  with jax.enable_x64(True):
    band = bounds.anchor_band(jnp.asarray(u), jnp.asarray(v), temperature=tau, leading=leading)
    terms = bounds.band_terms(jnp.asarray(u), jnp.asarray(v), temperature=tau)
    wide = bounds.three_term_band(terms)
  values, vectors = np.linalg.eigh(np.cov(v.T, bias=True))
  values, vectors = values[::-1], vectors[:, ::-1]
  for i in range(n):
    z = np.delete(v, i, axis=0)
    w = np.exp(z @ u[i] / tau)
    q = w.sum() / (w.sum() + np.exp(u[i] @ v[i] / tau))
    w /= w.sum()
    basis = np.linalg.qr(np.column_stack([vectors[:, :leading], u[i]]))[0]
    centered = z - z.mean(0)
    omega = (n - 1) * w - 1
    features = centered @ basis
    fitted = sum(features[:, k] * (omega @ features[:, k]) / (features[:, k] @ features[:, k])
                 for k in range(basis.shape[1]))
    g = q / tau * (w @ z - v[i])
    h = q / tau * (z.mean(0) + fitted @ centered / (n - 1) - v[i])
    across = np.linalg.norm(h - basis @ (basis.T @ h))
    rho = q / tau * np.sqrt(n / (n - 1) * values[leading] * np.mean((omega - fitted) ** 2))
    along = np.linalg.norm(basis.T @ g)
    upper, lower = np.hypot(along, across + rho), np.hypot(along, max(across - rho, 0))
    np.testing.assert_allclose(np.sqrt(band.upper[i]), min(upper, np.sqrt(wide.upper[i])), rtol=1e-9)
    np.testing.assert_allclose(np.sqrt(band.lower[i]), max(lower, np.sqrt(wide.lower[i])), rtol=1e-9)
    np.testing.assert_allclose(band.value[i], g @ g, rtol=1e-9)


def test_all_directions_close_the_band():
  u, v = batch()
  with jax.enable_x64(True):
    band = bounds.anchor_band(jnp.asarray(u), jnp.asarray(v), leading=5)
    np.testing.assert_allclose(band.upper, band.value, rtol=1e-6)
    np.testing.assert_allclose(band.lower, band.value, rtol=1e-6)


@pytest.mark.parametrize("kind", ("anchors", "singular"))
def test_batch_band_holds_the_mean_squared_gradient(kind):
  band_of = jax.jit(functools.partial(bounds.batch_band, kind=kind))
  for seed in range(3):
    for tau in (0.02, 0.2, 2.0):
      u, v = (jnp.asarray(x, jnp.float32) for x in batch(n=24, d=6, seed=seed))
      band = band_of(u, v, temperature=tau)
      value = jnp.mean(jnp.sum(gradients.anchor_gradients(u, v, temperature=tau) ** 2, axis=1))
      np.testing.assert_allclose(band.value, value, rtol=1e-4)
      assert float(band.lower) <= float(band.value) <= float(band.upper)


ONE_POINT = jnp.array([[1.0, 0.0]] * 2), jnp.array([[0.6, 0.8]] * 2)


@functools.partial(jax.jit, static_argnames=("kind", "n", "d"))
def batches_outside(key, *, kind, n, d):
  """How many of 256 batch bands do not hold: adversarial, of rank 1 or 2, of one point, tau from 1e-4 to 10."""
  def outside(key):
    keys = jax.random.split(key, 4)
    u, v = validate.adversarial_batch(keys[0], n, d)
    few = jnp.arange(d) < jax.random.randint(keys[1], (), 1, 3)
    same = lambda x: jnp.broadcast_to(x[:1], x.shape)
    form = jax.random.randint(keys[2], (), 0, 4)
    u = jnp.stack([u, u * few, same(u), u])[form]
    v = jnp.stack([v, v * few, same(v), same(v)])[form]
    band = bounds.batch_band(u, v, temperature=10 ** jax.random.uniform(keys[3], minval=-4, maxval=1), kind=kind)
    return ~((band.lower <= band.value) & (band.value <= band.upper) & jnp.isfinite(band.upper))
  return jnp.sum(jax.vmap(outside)(jax.random.split(key, 256)))


@pytest.mark.parametrize("kind", ("anchors", "singular"))
def test_batch_band_holds_where_rounding_is_all_there_is(kind):
  band = bounds.batch_band(*ONE_POINT, kind=kind)
  assert float(band.lower) <= float(band.value) <= float(band.upper) < 1e-9
  for key in range(8):
    assert int(batches_outside(jax.random.key(key), kind=kind, n=5, d=3)) == 0


@pytest.mark.parametrize("loss", ("info_nce", "nt_xent", "dcl", "dhel", "nscl"))
def test_temperature_is_the_own_default_of_the_loss(loss):
  u, v = (jnp.asarray(x, jnp.float32) for x in batch())
  own = inspect.signature(getattr(losses, loss)).parameters["temperature"].default
  labels = {"labels": LABELS} if loss == "nscl" else {}
  for function in (gradients.anchor_terms, gradients.anchor_gradients, bounds.band_terms, bounds.anchor_band):
    chex.assert_trees_all_equal(function(u, v, loss=loss, **labels),
                                function(u, v, loss=loss, temperature=own, **labels))
  strength = float(gradients.anchor_terms(u, v, loss=loss, **labels).repulsion.max())
  assert strength <= 1.0001 / own
  if loss != "nscl":
    chex.assert_trees_all_equal(bounds.optimum(loss, 4, 5), bounds.optimum(loss, 4, 5, temperature=own))
  if loss == "info_nce":
    chex.assert_trees_all_equal(bounds.batch_band(u, v), bounds.batch_band(u, v, temperature=own))


def test_batch_band_against_von_neumann_in_float64():
  u, v = batch(n=9, d=4)
  tau = 0.3
  p = np.exp(u @ v.T / tau)
  residual = p / p.sum(1, keepdims=True) - np.eye(9)
  centered = v - v.mean(0)
  spectrum = np.sort(np.linalg.eigvalsh(centered @ centered.T))[::-1]
  squares = np.linalg.svd(residual, compute_uv=False) ** 2
  with jax.enable_x64(True):
    band = bounds.batch_band(jnp.asarray(u), jnp.asarray(v), temperature=tau, kind="singular")
  np.testing.assert_allclose(band.upper, spectrum @ squares / (9 * tau ** 2), rtol=1e-9)
  np.testing.assert_allclose(band.lower, spectrum @ squares[::-1] / (9 * tau ** 2), rtol=1e-9)


def test_degenerate_batches_are_finite_and_so_are_the_slopes():
  degenerate = jnp.stack([jnp.ones((6, 3)), jnp.zeros((6, 3)), jnp.full((6, 3), 1e30), jnp.eye(6, 3)])

  @jax.jit
  def bands(x):
    band_of = lambda x, kind: bounds.anchor_band(x, x, kind=kind, temperature=0.05)
    return [jax.vmap(functools.partial(band_of, kind=kind))(x) for kind in ("plugin", "apriori")]

  for x in (degenerate, jnp.ones((1, 1, 3))):
    assert all(bool(jnp.isfinite(part).all()) for part in jax.tree.leaves(bands(x)))
  slope = jax.jit(jax.grad(lambda u: jnp.sum(bounds.anchor_band(u, jnp.eye(6, 3), loss="dcl", leading=0).upper)))
  assert bool(jnp.isfinite(slope(jax.random.normal(jax.random.key(0), (6, 3)))).all())


def simplex(n, d):
  centered = np.eye(n) - 1 / n
  rows = np.linalg.svd(centered)[0][:, :n - 1]
  rows = rows / np.linalg.norm(rows, axis=1, keepdims=True)
  return jnp.asarray(np.pad(rows, ((0, 0), (0, d - n + 1))))


def test_optima():
  for loss, kw, want in (  # docs/theory.md, section 1: n = 8, tau = 0.3
      ("info_nce", {}, 0.1441965), ("nt_xent", {}, 0.2701967), ("dcl", {}, -1.1704665), ("dhel", {}, -1.8636137),
      ("dhel", {"energy": "anchor"}, -1.8636137), ("dhel", {"energy": "sum"}, -0.3938940)):
    np.testing.assert_allclose(bounds.optimum(loss, 8, 16, temperature=0.3, **kw), want, rtol=1e-5)
  for n, d in ((2, 1), (5, 4)):  # as few and as many as a simplex has
    with jax.enable_x64(True):
      x = simplex(n, d)
      np.testing.assert_allclose(bounds.optimum("dcl", n, d), losses.dcl(x, x), rtol=1e-6)
  x = simplex(5, 6)
  for loss, kw in (("info_nce", {}), ("nt_xent", {}), ("dhel", {"energy": "sum"}), ("kcl", {}),
                   ("kcl", {"kernel": losses.kernels.log(1.0)})):
    with jax.enable_x64(True):
      got, want = bounds.optimum(loss, 5, 6, **kw), getattr(losses, loss)(x, x, **kw)
      np.testing.assert_allclose(got, want, rtol=1e-6)
  for n, d in ((1, 4), (6, 4)):
    with pytest.raises(ValueError, match="2 <= n <= d"):
      bounds.optimum("dcl", n, d)


def test_errors():
  u = jnp.ones((3, 2))
  with pytest.raises(ValueError, match="kind must be one of"):
    bounds.anchor_band(u, u, kind="exact")
  with pytest.raises(ValueError, match="leading must be at least 0"):
    bounds.anchor_band(u, u, leading=-1)
  with pytest.raises(ValueError, match="loss must be one of"):
    bounds.optimum("triplet", 2, 2)
