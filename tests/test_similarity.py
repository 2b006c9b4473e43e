"""CKA, RSA and mutual nearest neighbors against dense float64 definitions: batches, devices, large means."""

import functools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats
from jax.sharding import PartitionSpec as P

from spectral_jax import metrics
from spectral_jax.metrics import _moments, dissimilarity

SHAPE = (63, 12, 7)  # one for most tests: compiling takes longer than running
MEASURES = ("biased", "unbiased", "rsa")


def paired(n, d, e, mean=0.0, seed=0):
  """Two representations that share four latent directions, skewed, in float32."""
  rng = np.random.default_rng(seed)
  z = rng.normal(size=(n, 4))
  x = np.tanh(z @ rng.normal(size=(4, d))) + 0.5 * rng.normal(size=(n, d))
  y = np.exp(0.3 * z @ rng.normal(size=(4, e))) + 0.5 * rng.normal(size=(n, e))
  return (x + mean).astype(np.float32), (y - mean).astype(np.float32)


def dense_biased(x, y):
  n = len(x)
  h = np.eye(n) - 1 / n
  k, l = x @ x.T, y @ y.T
  hsic = lambda a, b: np.trace(a @ h @ b @ h)
  return hsic(k, l) / np.sqrt(hsic(k, k) * hsic(l, l))


def dense_unbiased(x, y):
  n = len(x)
  without_diagonal = lambda k: k - np.diag(np.diag(k))
  # Any one row may be subtracted first: HSIC_1 does not change, and float64 then holds a large mean.
  k, l = without_diagonal((x - x[0]) @ (x - x[0]).T), without_diagonal((y - y[0]) @ (y - y[0]).T)
  one = np.ones(n)
  hsic = lambda a, b: (np.trace(a @ b) + a.sum() * b.sum() / ((n - 1) * (n - 2))
                       - 2 / (n - 2) * one @ a @ b @ one) / (n * (n - 3))
  return hsic(k, l) / np.sqrt(hsic(k, k) * hsic(l, l))


def distances(x):
  """Cosine distances of all pairs, as half squared distances of unit rows: exact where rows are nearly parallel."""
  x = x / np.linalg.norm(x, axis=1, keepdims=True)
  return np.array([np.sum((x[i] - x[j]) ** 2) / 2 for i in range(len(x)) for j in range(i)])


def dense_rsa(x, y):
  return np.corrcoef(distances(x), distances(y))[0, 1]


ORACLES = {"biased": dense_biased, "unbiased": dense_unbiased, "rsa": dense_rsa}


def oracle(measure, x, y):
  return ORACLES[measure](np.asarray(x, np.float64), np.asarray(y, np.float64))


def stream_of(measure):
  return metrics.streaming_rsa() if measure == "rsa" else metrics.streaming_cka(unbiased=measure == "unbiased")


def plain(measure, **keywords):
  return functools.partial(metrics.rsa, **keywords) if measure == "rsa" else functools.partial(
      metrics.linear_cka, unbiased=measure == "unbiased", **keywords)


def in_batches(measure, x, y, size):
  stream = stream_of(measure)
  state = stream.init(x.shape[1], y.shape[1])
  for start in range(0, len(x), size):
    state = stream.update(state, x[start:start + size], y[start:start + size])
  return stream.finish(state)


@pytest.mark.parametrize("mean", [0.0, 1000.0])
@pytest.mark.parametrize("measure", MEASURES)
def test_batches_of_1_7_and_n_equal_the_dense_float64_definition(measure, mean):
  x, y = paired(*SHAPE, mean=mean)
  want = oracle(measure, x, y)
  assert 0.05 < want < 0.95
  for size in (1, 7, len(x)):
    np.testing.assert_allclose(in_batches(measure, x, y, size), want, rtol=0, atol=1e-6)
  np.testing.assert_allclose(plain(measure)(x, y), want, rtol=0, atol=1e-6)


@pytest.mark.parametrize("count", [1, 2, 8])
def test_over_devices_with_padding(count):
  """63 rows and padding of NaN that is masked; of eight devices, the last has padding alone."""
  x, y = paired(*SHAPE, mean=1000.0)
  rows = 64 if count < 8 else 72
  pad = lambda z: np.concatenate([z, np.full((rows - 63, z.shape[1]), np.nan, np.float32)])
  mesh = jax.make_mesh((count,), ("data",), axis_types=(jax.sharding.AxisType.Auto,), devices=jax.devices()[:count])

  def on_device(x, y, w):
    stream = metrics.streaming_cka()
    state = stream.update(stream.update(stream.init(12, 7), x[:3], y[:3], w[:3]), x[3:], y[3:], w[3:])
    return stream.finish(stream.psum(state, "data")), *(
        plain(measure, where=w, axis_name="data")(x, y) for measure in ("unbiased", "rsa"))

  got = jax.jit(jax.shard_map(on_device, mesh=mesh, in_specs=(P("data"),) * 3, out_specs=P()))(
      pad(x), pad(y), np.arange(rows) < 63)
  np.testing.assert_allclose(got, [oracle(measure, x, y) for measure in MEASURES], rtol=0, atol=1e-6)


@pytest.mark.parametrize("measure", MEASURES)
def test_tiles_inside_one_call(measure, monkeypatch):
  x, y = paired(*SHAPE, mean=1000.0)
  monkeypatch.setattr(_moments, "TILE", 16)
  update = jax.jit(functools.partial(_moments.update, unit=measure == "rsa"))
  state = update(_moments.empty(12, 7, jnp.float32), x, y, jnp.ones(63, bool))
  np.testing.assert_allclose(stream_of(measure).finish(state), oracle(measure, x, y), rtol=0, atol=1e-6)


@pytest.mark.parametrize("measure", MEASURES)
def test_merge_in_any_order_with_far_batches_and_empty_states(measure):
  """Batches whose means are far apart, as sorted classes have; merged as a tree, and with states of no row."""
  parts = [paired(7, 12, 7, mean=m, seed=s) for s, m in enumerate((0.0, 30.0, -500.0, 3.0))]
  x, y = (np.concatenate(z) for z in zip(*parts))
  stream = stream_of(measure)
  empty = stream.init(12, 7)
  a, b, c, d = (stream.update(empty, *part) for part in parts)
  tree = stream.merge(stream.merge(d, empty), stream.merge(stream.merge(empty, b), stream.merge(c, a)))
  np.testing.assert_allclose(stream.finish(tree), oracle(measure, x, y), rtol=0, atol=1e-6)
  assert int(tree.count) == 28 and int(stream.merge(empty, empty).count) == 0
  chex.assert_trees_all_equal_shapes_and_dtypes(tree, empty)


def test_many_batches_lose_nothing():
  """Twenty thousand batches of one row: without the compensation, the error would be a few 1e-6."""
  n = 20000
  x, y = paired(n, 3, 2, mean=100.0)
  stream = metrics.streaming_cka()
  state = jax.jit(lambda x, y: jax.lax.fori_loop(
      0, n, lambda i, s: stream.update(s, x[i][None], y[i][None]), stream.init(3, 2)))(x, y)
  x, y = (z.astype(np.float64) - z.astype(np.float64).mean(0) for z in (x, y))
  want = np.sum((x.T @ y) ** 2) / np.sqrt(np.sum((x.T @ x) ** 2) * np.sum((y.T @ y) ** 2))
  np.testing.assert_allclose(stream.finish(state), want, rtol=0, atol=2e-7)
  rest = jax.tree.map(lambda r: float(jnp.max(jnp.abs(r))), state.sums_rest)
  assert rest.xx.cross > 0 and rest.xy.cross > 0  # the compiler keeps the compensation


@pytest.mark.parametrize("measure", MEASURES)
def test_one_with_itself_and_invariances(measure):
  value = plain(measure)
  for n, d in ((63, 12), (9, 30)):  # by moments, by n x n matrices
    x, y = paired(n, d, d)
    turn = np.linalg.qr(np.random.default_rng(1).normal(size=(d, d)))[0].astype(np.float32)
    np.testing.assert_allclose(value(x, x), 1, rtol=0, atol=2.5e-7)
    np.testing.assert_allclose(value(x, 4 * x @ turn), 1, rtol=0, atol=2e-6)
    np.testing.assert_allclose(value(x, y), value(y, x), rtol=0, atol=1e-6)
    np.testing.assert_allclose(value(1e30 * x, 1e-30 * y), value(x, y), rtol=0, atol=2e-6)


def test_unrelated_data_in_more_dimensions_than_rows():
  x, y = jax.random.normal(jax.random.key(0), (2, 100, 5000))
  assert metrics.linear_cka(x, y) > 0.97
  assert abs(metrics.linear_cka(x, y, unbiased=True)) < 0.03
  np.testing.assert_allclose(metrics.linear_cka(x, y, unbiased=True), oracle("unbiased", x, y), rtol=0, atol=1e-6)


@pytest.mark.parametrize("measure, width", [("biased", 7), ("unbiased", 7), ("rsa", 7), ("rsa", 100)])
def test_masked_rows_do_not_matter(measure, width):
  """By moments, and by n x n matrices where d is greater."""
  x, y = paired(63, 12, width)
  keep = np.arange(63) % 3 != 0
  want = oracle(measure, x[keep], y[keep])
  bad = lambda z: jnp.where(keep[:, None], z, jnp.nan)
  got, gradient = jax.value_and_grad(lambda x: plain(measure, where=keep)(x, bad(y)))(bad(x))
  np.testing.assert_allclose(got, want, rtol=0, atol=1e-6)
  assert bool(jnp.isfinite(gradient).all()) and bool((gradient[~keep] == 0).all()) and bool((gradient[keep] != 0).any())


@pytest.mark.parametrize("measure", MEASURES)
def test_undefined_values_are_nan(measure):
  x, y = map(jnp.asarray, paired(*SHAPE))
  value = plain(measure)
  for bad in (jnp.ones_like(x), jnp.full_like(x, 1e3) + 0.1, x.at[3, 1].set(jnp.nan), x.at[0, 0].set(jnp.inf)):
    assert np.isnan(value(bad, y))
    assert np.isnan(in_batches(measure, bad, y, 7))
  few = jnp.arange(63) < {"biased": 1, "unbiased": 3, "rsa": 2}[measure]
  assert np.isnan(value(x, y, where=few)) and np.isnan(value(x, y, where=jnp.zeros(63, bool)))
  stream = stream_of(measure)
  assert np.isnan(stream.finish(stream.init(12, 7)))
  if measure == "rsa":
    assert np.isnan(value(x.at[4].set(0.0), y))
  else:
    assert np.isfinite(value(x.at[4].set(0.0), y))


def test_duplicates_and_bfloat16():
  x, y = paired(*SHAPE)
  x[32:62], y[32:62] = x[:30], y[:30]
  rounded = jnp.asarray(x, jnp.bfloat16), jnp.asarray(y, jnp.bfloat16)
  for measure in MEASURES:
    np.testing.assert_allclose(plain(measure)(x, y), oracle(measure, x, y), rtol=0, atol=1e-6)
    got = plain(measure)(*rounded)
    assert got.dtype == jnp.float32
    np.testing.assert_allclose(got, oracle(measure, *(z.astype(jnp.float32) for z in rounded)), rtol=0, atol=1e-6)


@pytest.mark.parametrize("measure", MEASURES)
def test_gradients_in_float64(measure):
  """Of both forms, against the definition's own, and under vmap."""
  with jax.enable_x64(True):
    for d in (3, 20):
      x, y = (jnp.asarray(z, jnp.float64) for z in paired(10, d, d, mean=5.0))

      def definition(x):
        if measure == "rsa":
          i, j = np.triu_indices(10, 1)
          unit = lambda z: z / jnp.linalg.norm(z, axis=1, keepdims=True)
          a, b = ((z @ z.T)[i, j] for z in (unit(x), unit(y)))
          return jnp.corrcoef(a, b)[0, 1]
        h = jnp.eye(10) - 0.1
        k, l = h @ x @ x.T @ h, h @ y @ y.T @ h
        if measure == "unbiased":
          k, l = (a - jnp.diag(jnp.diag(a)) for a in (k, l))
          hsic = lambda a, b: jnp.sum(a * b) + a.sum() * b.sum() / 72 - 2 / 8 * jnp.sum(a @ b)
        else:
          hsic = lambda a, b: jnp.sum(a * b)
        return hsic(k, l) / jnp.sqrt(hsic(k, k) * hsic(l, l))

      want = jax.value_and_grad(definition)(x)
      chex.assert_trees_all_close(jax.value_and_grad(plain(measure))(x, y), want, rtol=1e-7, atol=1e-9)


def test_vmapped_streams():
  x, y = (np.stack(z) for z in zip(paired(*SHAPE), paired(*SHAPE, seed=1)))
  stream = metrics.streaming_cka()
  state = jax.vmap(stream.update)(jax.tree.map(lambda a: jnp.stack([a, a]), stream.init(12, 7)), x, y)
  want = [oracle("biased", *z) for z in zip(x, y)]
  np.testing.assert_allclose(jax.vmap(stream.finish)(state), want, rtol=0, atol=1e-6)
  np.testing.assert_allclose(jax.vmap(metrics.linear_cka)(x, y), want, rtol=0, atol=1e-6)


def test_spearman_ranks_every_pair():
  for mean in (0.0, 1000.0):
    x, y = paired(*SHAPE, mean=mean)
    want = scipy.stats.spearmanr(*(distances(z.astype(np.float64)) for z in (x, y)))[0]
    got = metrics.rsa_with_error(x, y, method="spearman")
    np.testing.assert_allclose(got.value, want, rtol=0, atol=1e-5)
    assert got.standard_error == 0
  keep = np.arange(63) % 4 > 0
  want = scipy.stats.spearmanr(*(distances(z[keep].astype(np.float64)) for z in (x, y)))[0]
  masked = metrics.rsa(np.where(keep[:, None], x, np.nan), y, method="spearman", where=keep)
  np.testing.assert_allclose(masked, want, rtol=0, atol=1e-5)
  assert np.isnan(metrics.rsa(jnp.asarray(x).at[2].set(jnp.nan), y, method="spearman"))
  assert np.isnan(metrics.rsa(x, np.ones_like(y), method="spearman"))


def test_spearman_gives_ties_their_mean_rank():
  """Class indicators have two distances only."""
  labels = np.arange(63) % 7
  x, y = paired(*SHAPE)[0], np.eye(7, dtype=np.float32)[labels] * 3 + 1
  exact = (labels[:, None] != labels)[np.tril_indices(63, -1)].astype(float)
  want = scipy.stats.spearmanr(distances(x.astype(np.float64)), exact)[0]
  np.testing.assert_allclose(metrics.rsa(x, y, method="spearman"), want, rtol=0, atol=1e-5)


def test_sampled_spearman_and_its_error(monkeypatch):
  x, y = paired(300, 6, 5)
  exact = metrics.rsa(x, y, method="spearman")
  monkeypatch.setattr(dissimilarity, "EXACT_ROWS", 100)
  deviations = []
  for seed in range(30):
    got = metrics.rsa_with_error(x, y, method="spearman", pairs=4096, key=jax.random.key(seed))
    deviations.append(float((got.value - exact) / got.standard_error))
  # Thirty standard normal draws: their root mean square lies in this range but once in ten thousand times.
  assert 0.5 < np.sqrt(np.mean(np.square(deviations))) < 1.6
  keep = np.arange(300) < 299
  masked = metrics.rsa_with_error(np.where(keep[:, None], x, np.nan), y, method="spearman", where=keep, pairs=4096)
  assert abs(masked.value - exact) < 5 * masked.standard_error
  assert np.isnan(metrics.rsa(x, np.where(keep[:, None], y, np.nan), method="spearman", pairs=4096 * 16))


def test_mutual_knn_against_a_loop(monkeypatch):
  x, y = paired(41, 5, 4)
  unit = lambda z: z.astype(np.float64) / np.linalg.norm(z.astype(np.float64), axis=1, keepdims=True)
  monkeypatch.setattr(metrics.neighbors, "TILE_ENTRIES", 41 * 16)
  for k in (1, 7, 40):
    shares = []
    for i in range(41):
      near = [set([j for j in np.argsort(-(unit(z) @ unit(z)[i]), kind="stable") if j != i][:k]) for z in (x, y)]
      shares.append(len(near[0] & near[1]) / k)
    np.testing.assert_allclose(metrics.mutual_knn(x, y, k=k), np.mean(shares), rtol=1e-6)
  assert np.isnan(metrics.mutual_knn(jnp.asarray(x).at[0, 0].set(jnp.nan), y))


def test_errors():
  x = jnp.ones((8, 3))
  for function in (metrics.linear_cka, metrics.rsa, metrics.mutual_knn):
    with pytest.raises(ValueError, match="same number of rows"):
      function(x, x[:7])
    with pytest.raises(TypeError, match="floating-point"):
      function(x, jnp.ones((8, 3), int))
  with pytest.raises(ValueError, match="unbiased, needs at least 4 rows, got 3"):
    metrics.linear_cka(x[:3], x[:3], unbiased=True)
  with pytest.raises(ValueError, match="at least 2 rows"):
    metrics.linear_cka(x[:1], x[:1])
  with pytest.raises(ValueError, match="rsa needs at least 3 rows"):
    metrics.rsa(x[:2], x[:2])
  with pytest.raises(ValueError, match="method must be one of"):
    metrics.rsa(x, x, method="kendall")
  with pytest.raises(ValueError, match="one device"):
    metrics.rsa(x, x, method="spearman", axis_name="data")
  with pytest.raises(ValueError, match="multiple of 64"):
    metrics.rsa(x, x, method="spearman", pairs=100)
  for k in (0, 8, 2.0):
    with pytest.raises(ValueError, match="k must be an integer from 1"):
      metrics.mutual_knn(x, x, k=k)
  stream = metrics.streaming_cka()
  with pytest.raises(ValueError, match=r"state's widths \(3, 2\)"):
    stream.update(stream.init(3, 2), x, x)
  with pytest.raises(ValueError, match="init of the same widths"):
    stream.merge(stream.init(3, 2), stream.init(3, 3))
  with pytest.raises(ValueError, match="d_x must be a positive integer"):
    stream.init(0, 3)
  with pytest.raises(TypeError, match="dtype must be a floating-point"):
    stream.init(3, 3, jnp.int32)


def test_a_second_eager_call_compiles_nothing():
  x, y = map(jnp.asarray, paired(*SHAPE))
  labels = jnp.arange(63) % 3
  stream = metrics.streaming_rsa()

  def calls():
    state = stream.update(stream.init(12, 7), x, y)
    stream.finish(stream.merge(state, state))
    for measure in MEASURES:
      plain(measure)(x, y)
    metrics.rsa_with_error(x, y, method="spearman")
    metrics.mutual_knn(x, y)
    metrics.cdnv(x, labels), metrics.directional_cdnv(x, labels), metrics.nccc_accuracy(x, labels, x, labels)
    metrics.weight_gap({"kernel": x}, {"kernel": x}), metrics.wasserstein_uniformity(x)

  calls()
  seen = []

  def listen(event, *_, **__):
    seen.append(event)

  jax.monitoring.register_event_duration_secs_listener(listen)
  try:
    calls()
    assert "/jax/core/compile/backend_compile_duration" not in seen
    jax.jit(lambda x: x * 1.25 + 3)(x)
    assert "/jax/core/compile/backend_compile_duration" in seen  # the listener hears compilations
  finally:
    jax.monitoring.unregister_event_duration_listener(listen)
