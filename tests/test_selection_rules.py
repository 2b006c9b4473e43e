"""The published rules of batch selection: planted structure recovered, oracles of their parts, epochs as partitions."""

import itertools
import math

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from spectral_jax import selection
from spectral_jax.config import load_config
from spectral_jax.selection import _bisect, _graph, balanced, cluster, gcbs
from spectral_jax.selection.epoch import SPLITS
from spectral_jax.studies import selection_rules
from spectral_jax.training.batches.planner import check_selection
from spectral_jax.training.checks import check_config

KEY = jax.random.key(11)
PARTITIONS = ("cluster", "gcbs", "b3", "spectral", "submodular")


def unit(x):
  return x / np.linalg.norm(x, axis=1, keepdims=True)


def rows_of(n, d, seed=0):
  return unit(np.random.default_rng(seed).normal(size=(n, d)))


def planted(clusters, size, d=24, noise=0.1, seed=0):
  """Rows in clusters of one size, shuffled, and their labels."""
  rng = np.random.default_rng(seed)
  labels = rng.permutation(np.repeat(np.arange(clusters), size))
  rows = rng.normal(size=(clusters, d))[labels] + noise * rng.normal(size=(clusters * size, d))
  return jnp.asarray(rows, jnp.float32), labels


# The graph.

@pytest.mark.parametrize("n, count, tile", [(37, 5, 256), (37, 36, 10), (2, 1, 8)])
def test_nearest_neighbors_are_those_of_a_sorted_list(n, count, tile, monkeypatch):
  monkeypatch.setattr(_graph, "_TILE", tile)
  rows = rows_of(n, 4)
  with jax.enable_x64(True):
    indices, cosines = _graph.nearest(jnp.asarray(rows), count)
  for i in range(n):
    expected = sorted((j for j in range(n) if j != i), key=lambda j: -rows[i] @ rows[j])[:count]
    assert np.asarray(indices)[i].tolist() == expected
    np.testing.assert_allclose(cosines[i], [rows[i] @ rows[j] for j in expected], rtol=1e-12)


def test_zero_rows_have_no_neighbors_and_are_nobodys():
  rows = rows_of(12, 3)
  rows[[2, 7]] = 0
  indices, cosines = (np.asarray(x) for x in _graph.nearest(jnp.asarray(rows), 11))
  assert np.isneginf(cosines[[2, 7]]).all()
  assert np.isneginf(cosines[np.isin(indices, [2, 7])]).all()
  assert np.isfinite(cosines[~np.isin(indices, [2, 7])][: 9 * 9]).any()


def test_an_edge_is_mutual():
  rng = np.random.default_rng(1)
  indices = np.stack([rng.permutation([j for j in range(30) if j != i])[:6] for i in range(30)])
  present = rng.random((30, 6)) < 0.7
  got = np.asarray(_graph.mutual(jnp.asarray(indices), jnp.asarray(present)))
  edges = {(i, j) for i in range(30) for a, j in enumerate(indices[i]) if present[i, a]}
  for i, a in itertools.product(range(30), range(6)):
    j = indices[i, a]
    assert got[i, a] == ((i, j) in edges and (j, i) in edges)


# Reverse Cuthill-McKee.

def slow_cuthill_mckee(adjacent):
  """`adjacent[i]` lists the neighbors of i in the order of ties."""
  degree = [len(a) for a in adjacent]
  left, order = sorted(range(len(adjacent)), key=lambda i: degree[i]), []
  while left:
    queue = [left.pop(0)]
    while queue:
      node = queue.pop(0)
      order.append(node)
      for j in sorted(adjacent[node], key=lambda j: degree[j]):
        if j in left:
          left.remove(j)
          queue.append(j)
  return order


def table_of(adjacent):
  n, k = len(adjacent), max(1, *map(len, adjacent))
  neighbors, edges = np.zeros((n, k), np.int32), np.zeros((n, k), bool)
  for i, some in enumerate(adjacent):
    neighbors[i, :len(some)], edges[i, :len(some)] = some, True
  return jnp.asarray(neighbors), jnp.asarray(edges)


@pytest.mark.parametrize("n, density, seed", [(40, 0.06, 0), (40, 0.2, 1), (25, 0.0, 2), (12, 1.0, 3), (1, 0.0, 4)])
def test_cuthill_mckee_is_breadth_first_by_degree(n, density, seed):
  upper = np.triu(np.random.default_rng(seed).random((n, n)) < density, 1)
  adjacent = [np.flatnonzero(row).tolist() for row in upper | upper.T]
  assert np.asarray(gcbs.cuthill_mckee(*table_of(adjacent))).tolist() == slow_cuthill_mckee(adjacent)


def test_cuthill_mckee_finds_the_band_of_a_shuffled_one():
  n, band = 60, 3
  shuffle = np.random.default_rng(0).permutation(n)
  place = np.argsort(shuffle)
  adjacent = [[int(shuffle[p]) for p in range(place[i] - band, place[i] + band + 1) if 0 <= p < n and p != place[i]]
              for i in range(n)]
  order = np.asarray(gcbs.cuthill_mckee(*table_of(adjacent)))
  where = np.argsort(order)
  assert max(abs(where[i] - where[j]) for i in range(n) for j in adjacent[i]) <= 2 * band


def test_gcbs_keeps_the_entries_above_the_quantile():
  """The threshold leaves `neighbors` entries a row on average, of the whole matrix where no row is cut short."""
  rows, neighbors = rows_of(50, 20), 4
  with jax.enable_x64(True):
    order = np.asarray(gcbs.gcbs_order(jnp.asarray(rows), neighbors))
  cosines = rows @ rows.T - 9 * np.eye(50)
  edges = cosines >= np.sort(cosines.ravel())[-50 * neighbors]
  assert edges.sum(1).max() <= 2 * neighbors
  adjacent = [sorted(np.flatnonzero(row), key=lambda j: -cosines[i, j]) for i, row in enumerate(edges)]
  assert order.tolist() == slow_cuthill_mckee(adjacent)[::-1]


# Recursive bisection.

def cut(weights, half):
  other = [i for i in range(len(weights)) if i not in half]
  return weights[np.ix_(list(half), other)].sum()


@pytest.mark.parametrize("seed", range(4))
def test_a_bisection_is_the_best_of_all_where_structure_is_planted(seed):
  rng = np.random.default_rng(seed)
  n, side = 12, rng.permutation(np.repeat([0, 1], 6))
  strength = np.where(side[:, None] == side, 0.5, 0.0) + 0.4 * rng.random((n, n))
  weights = np.triu(strength, 1) + np.triu(strength, 1).T
  neighbors = np.stack([[j for j in range(n) if j != i] for i in range(n)])
  some = np.take_along_axis(weights, neighbors, axis=1)
  order = np.asarray(_bisect.bisect(KEY, jnp.asarray(rows_of(n, 3)), jnp.asarray(neighbors), jnp.asarray(some), 2))
  best = min(cut(weights, half) for half in itertools.combinations(range(n), n // 2))
  assert cut(weights, order[:6]) == pytest.approx(best)


def test_the_cut_runs_along_the_second_eigenvector():
  rng = np.random.default_rng(0)
  n = 30
  x = np.sort(rng.random(n))
  weights = np.exp(-50 * (x[:, None] - x) ** 2) * (1 - np.eye(n))
  degree = weights.sum(1)
  vector = np.linalg.eigh(weights / np.sqrt(degree[:, None] * degree))[1][:, -2] / np.sqrt(degree)
  neighbors = np.stack([[j for j in range(n) if j != i] for i in range(n)])
  with jax.enable_x64(True):
    order = np.asarray(_bisect.bisect(KEY, jnp.asarray(np.cos([x, 2 * x]).T), jnp.asarray(neighbors),
                                      jnp.asarray(np.take_along_axis(weights, neighbors, axis=1)), 2))
  halves = [set(np.argsort(vector)[:15]), set(np.argsort(vector)[15:])]
  assert set(order[:15].tolist()) in [set(map(int, half)) for half in halves]


@pytest.mark.parametrize("parts", [1, 2, 3, 5, 8, 13])
def test_levels_halve_every_group(parts):
  levels = _bisect._levels(parts)
  assert levels.shape == (math.ceil(math.log2(parts)), parts)
  for before, after in itertools.pairwise([*levels, np.arange(parts)]):
    for group in np.unique(before):
      sizes = np.unique(after[before == group], return_counts=True)[1]
      assert len(sizes) <= 2 and sizes.max() - sizes.min() <= 1 and (np.diff(after) >= 0).all()


# Planted clusters.

@pytest.mark.parametrize("rule, options", [
    ("cluster", {"clusters": 9}), ("gcbs", {"neighbors": 15}), ("b3", {"neighbors": 15, "skip": 0}),
    ("b3", {"neighbors": 12, "skip": 3}), ("spectral", {"neighbors": 15})])
def test_batches_are_the_planted_clusters(rule, options):
  rows, labels = planted(9, 16)
  batches = np.asarray(selection.epoch_batches(KEY, rows, 16, rule=rule, **options))
  assert all(len(set(labels[batch])) == 1 for batch in batches)
  assert len(np.unique(batches)) == 144


def test_communities_of_b3_are_joined_to_batches_at_random():
  rows, labels = planted(12, 8)
  build = lambda key: np.asarray(selection.epoch_batches(key, rows, 16, rule="b3", neighbors=7, skip=0, cluster_size=8))
  batches = labels[build(KEY)].reshape(6, 2, 8)
  assert all(len(set(community)) == 1 for community in batches.reshape(12, 8))
  pairs = {frozenset(batch[:, 0].tolist()) for batch in batches}
  other = {frozenset(batch[:, 0].tolist()) for batch in labels[build(jax.random.key(1))].reshape(6, 2, 8)}
  assert pairs != other


def test_b3_leaves_out_the_nearest():
  """Twins are nearest to each other: joined to rank 1 only they share a batch, joined from rank 2 on none does."""
  rng = np.random.default_rng(0)
  rows = np.repeat(rng.normal(size=(40, 30)), 2, axis=0) + 1e-3 * rng.normal(size=(80, 30))
  rows = jnp.asarray(rows, jnp.float32)
  together = lambda **kw: np.mean([batch[0] // 2 == batch[1] // 2 for batch in np.asarray(selection.epoch_batches(
      KEY, rows, 2, rule="b3", neighbors=kw["neighbors"], skip=kw["skip"], cluster_size=2))])
  assert together(skip=0, neighbors=1) == 1.0
  assert together(skip=1, neighbors=8) < 0.2


def test_kmeans_ends_where_no_row_is_nearer_to_another_center():
  rows, labels = planted(7, 20, noise=0.3)
  rows = jnp.asarray(unit(np.asarray(rows)))
  got, centers = jax.jit(cluster.kmeans, static_argnums=2)(KEY, rows, 7)
  cosines = np.asarray(rows, np.float64) @ np.asarray(centers, np.float64).T
  assert np.array_equal(got, cosines.argmax(1))
  for label in range(7):
    mine = np.asarray(rows)[np.asarray(got) == label]
    np.testing.assert_allclose(centers[label], mine.sum(0) / np.linalg.norm(mine.sum(0)), atol=1e-5)
    assert len(set(labels[np.asarray(got) == label])) == 1


# Submodular batches.

def slow_gain(rows, queries, batch, temperature, ceiling):
  """f(S) of the docstring by two loops."""
  total = 0.0
  for i in queries:
    load = 1.0
    for j in batch:
      cosine = rows[i] @ rows[j]
      if j != i and cosine <= ceiling:
        load += math.exp((cosine - 1) / temperature)
    total += math.log(load)
  return total


@pytest.mark.parametrize("ceiling", [0.4, 2.0])
@pytest.mark.parametrize("candidates", [None, 64])
def test_submodular_is_the_naive_greedy(candidates, ceiling):
  rows, size, queries = rows_of(30, 3), 12, 4
  with jax.enable_x64(True):
    got = np.asarray(selection.submodular_batch(
        KEY, jnp.asarray(rows), size, candidates=candidates, queries=queries, ceiling=ceiling)).tolist()
  taken = got[:queries]
  while len(taken) < size:
    left = [i for i in range(30) if i not in taken]
    values = [slow_gain(rows, got[:queries], [*taken, i], 0.1, ceiling) for i in left]
    assert values[left.index(got[len(taken)])] == pytest.approx(max(values), rel=1e-12)
    taken.append(got[len(taken)])


@pytest.mark.parametrize("seed", range(6))
def test_submodular_reaches_its_share_of_the_best_batch(seed):
  """n = 12: at least 1 - 1/e of the best gain over what the queries give each other; f is monotone and submodular."""
  rows, queries, size = rows_of(12, 3, seed), 3, 6
  got = np.asarray(selection.submodular_batch(
      jax.random.key(seed), jnp.asarray(rows), size, candidates=None, queries=queries, temperature=0.5)).tolist()
  f = lambda extra: slow_gain(rows, got[:queries], [*got[:queries], *extra], 0.5, 0.95)
  left = [i for i in range(12) if i not in got[:queries]]
  best = max(f(extra) for extra in itertools.combinations(left, size - queries))
  assert f(got[queries:]) - f([]) >= (1 - 1 / math.e) * (best - f([])) - 1e-6
  for a, b, x in itertools.permutations(left, 3):
    assert f([a, x]) - f([a]) >= f([a, b, x]) - f([a, b]) - 1e-12 >= -2e-12


def test_one_query_without_a_ceiling_is_a_hard_batch():
  rows = rows_of(60, 4)
  got = np.asarray(selection.submodular_batch(
      KEY, jnp.asarray(rows), 9, candidates=None, queries=1, ceiling=2.0, temperature=0.5))
  assert got.tolist() == np.argsort(-(rows @ rows[got[0]]))[:9].tolist()


def test_what_gains_nothing_is_taken_at_random():
  """Under a ceiling that forbids all, examples are equally good: none is preferred for its place in the bank."""
  built = np.stack([selection.submodular_batch(key, jnp.asarray(rows_of(40, 3)), 8, candidates=None, ceiling=-2.0)
                    for key in jax.random.split(KEY, 40)])
  counts = np.bincount(built.ravel(), minlength=40)
  assert ((counts - 8) ** 2 / 8).sum() < 80  # chi-square, 39 degrees of freedom: probability 1e-4


def test_balanced_submodular_batches_take_turns():
  rows, batches, size, queries = rows_of(36, 4), 3, 12, 3
  with jax.enable_x64(True):
    got = np.asarray(balanced.grow_submodular(
        jnp.asarray(rows), batches, queries=queries, temperature=0.2, ceiling=0.9)).tolist()
  taken, free = [[] for _ in range(batches)], list(range(36))
  for k in range(size):
    for turn in range(batches):
      mine = taken[(k + turn) % batches]
      if k < queries:
        mine.append(free.pop(0))
        continue
      values = [slow_gain(rows, mine[:queries], [*mine, i], 0.2, 0.9) for i in free]
      mine.append(free.pop(int(np.argmax(values))))
  assert got == taken


# Joint example selection.

def slow_jest(key, learner, reference, size, chunks, loss, temperatures, bias=-10.0):
  """The docstring's r by loops, and the same Gumbel noise."""
  def conditional(pair, t, i, drawn):
    s = lambda a, b: pair[0][a] @ pair[1][b] / t
    if loss == "softmax":
      ways = [[s(i, j) for j in drawn], [s(j, i) for j in drawn]]
      return -s(i, i) + (np.mean([np.log(np.sum(np.exp(way))) for way in ways]) if drawn else 0)
    log_sigmoid = lambda x: -np.logaddexp(0, -x)
    met = sum(log_sigmoid(-s(i, j) - bias) + log_sigmoid(-s(j, i) - bias) for j in drawn)
    return -log_sigmoid(s(i, i) + bias) - met

  m, chunk, taken = len(learner[0]), -(-size // chunks), []
  for k in range(-(-size // chunk)):
    noise = np.asarray(jax.random.gumbel(jax.random.fold_in(key, k), (m,)))
    score = np.full(m, -np.inf)
    for i in set(range(m)) - set(taken):
      score[i] = (conditional(learner, temperatures[0], i, taken) - conditional(reference, temperatures[1], i, taken)
                  + noise[i])
    taken += np.argsort(-score)[:chunk].tolist()
  return taken[:size]


@pytest.mark.parametrize("loss", ["softmax", "sigmoid"])
@pytest.mark.parametrize("size, chunks", [(12, 4), (11, 4), (3, 1)])
def test_jest_draws_what_can_be_learned_given_what_was_drawn(loss, size, chunks):
  learner, reference = (tuple(rows_of(26, d, seed) for seed in (d, d + 1)) for d in (4, 6))
  bias = -3.0
  with jax.enable_x64(True):
    got = selection.jest_batch(
        KEY, tuple(map(jnp.asarray, learner)), tuple(map(jnp.asarray, reference)), size, chunks=chunks, loss=loss,
        temperature=0.3, reference_temperature=0.5, bias=bias)
    expected = slow_jest(KEY, learner, reference, size, chunks, loss, (0.3, 0.5), bias)
  assert np.asarray(got).tolist() == expected


def test_jest_prefers_what_only_the_reference_has_learned():
  """A third is learned by both, a third by the reference alone, and a third is noise to both."""
  rng = np.random.default_rng(0)
  u, wrong = rows_of(240, 32), rows_of(240, 32, 1)
  kind = rng.integers(0, 3, 240)
  learner = (u, np.where(kind[:, None] == 0, u, wrong))
  reference = (u, np.where(kind[:, None] == 2, wrong, u))
  for loss in ("softmax", "sigmoid"):
    got = np.asarray(selection.jest_batch(KEY, tuple(map(jnp.asarray, learner)), tuple(map(jnp.asarray, reference)), 48,
                                          loss=loss))
    assert np.mean(kind[got] == 1) > 0.9


def test_jest_without_a_difference_is_uniform():
  rows = jnp.asarray(rows_of(20, 4))
  built = np.stack([selection.jest_batch(key, rows, rows, 5, chunks=2) for key in jax.random.split(KEY, 200)])
  counts = np.bincount(built.ravel(), minlength=20)
  assert ((counts - 50) ** 2 / 50).sum() < 50  # chi-square, 19 degrees of freedom: probability 1.3e-4


# Epochs.

@pytest.fixture(scope="module")
def bank():
  return planted(12, 11, noise=0.6)[0]


@pytest.mark.parametrize("rule", PARTITIONS)
def test_an_epoch_is_a_partition_and_repeats_itself(rule, bank):
  build = lambda key, bank: selection.epoch_batches(key, bank, 10, rule=rule, superbatch=5)
  batches = np.asarray(build(KEY, bank))
  chex.assert_shape(batches, (13, 10))
  assert batches.dtype == np.int32 and len(np.unique(batches)) == 130 and 0 <= batches.min() <= batches.max() < 132
  assert np.array_equal(batches, jax.jit(build)(KEY, bank))
  others = [np.asarray(build(key, bank)) for key in jax.random.split(KEY, 8)]
  assert set(np.concatenate(others, axis=None).tolist()) == set(range(132))  # others are left over each time


@pytest.mark.parametrize("rule", PARTITIONS)
def test_epochs_survive_rows_without_direction_duplicates_and_scales(rule, bank):
  odd = np.asarray(bank).copy()
  odd[:20], odd[20:40], odd[40:50], odd[50:60] = 0, odd[20], odd[40:50] * 1e30, odd[50:60] * 1e-30
  traced = jax.jit(lambda bank: selection.epoch_batches(KEY, bank, 10, rule=rule, superbatch=5))
  for some in (odd, np.where(odd == 0, np.nan, odd), np.zeros_like(odd), np.ones_like(odd)):
    assert len(np.unique(traced(some))) == 130


@pytest.mark.parametrize("rule", PARTITIONS)
@pytest.mark.parametrize("m, size", [(1, 1), (2, 1), (5, 5), (7, 3)])
def test_epochs_of_few_examples(rule, m, size):
  batches = np.asarray(selection.epoch_batches(KEY, jnp.asarray(rows_of(m, 3)), size, rule=rule))
  assert batches.shape == (m // size, size) and len(np.unique(batches)) == batches.size


@pytest.mark.parametrize("rule", PARTITIONS)
def test_half_precision_banks_are_judged_in_single(rule, bank):
  half = bank.astype(jnp.bfloat16)
  build = lambda bank: selection.epoch_batches(KEY, bank, 10, rule=rule, superbatch=5)
  assert np.array_equal(build(half), build(half.astype(jnp.float32)))


@pytest.mark.parametrize("coverage", ["oversampled", "independent"])
@pytest.mark.parametrize("rule", ["submodular", "jest"])
def test_batches_that_leave_examples_out(rule, coverage, bank):
  reference = bank[::-1] if rule == "jest" else None
  batches = np.asarray(selection.epoch_batches(KEY, bank, 10, rule=rule, coverage=coverage, superbatch=5,
                                               reference=reference))
  assert batches.shape == (13, 10) and all(len(set(row)) == 10 for row in batches.tolist())


@pytest.mark.parametrize("rule, coverage", [*((rule, "balanced") for rule in PARTITIONS), ("jest", "oversampled")])
def test_a_second_epoch_compiles_nothing(rule, coverage, bank):
  reference = bank if rule == "jest" else None
  build = lambda key, bank: selection.epoch_batches(key, bank, 10, rule=rule, coverage=coverage, superbatch=5,
                                                    reference=reference)
  keys, other = jax.random.split(KEY, 2), bank + 1
  build(keys[0], bank)
  heard = []
  listen = lambda event, duration, **_: heard.append(event)
  jax.monitoring.register_event_duration_secs_listener(listen)
  try:
    build(keys[1], other)
  finally:
    jax.monitoring.unregister_event_duration_listener(listen)
  assert not [event for event in heard if event.startswith("/jax/core/compile")]


@pytest.mark.parametrize("rule", ["random", "greedy", "log_det", *PARTITIONS])
def test_no_partition_has_a_higher_harmonic_mean_rank_than_the_whole(rule, bank):
  """||C||^2 is convex, and the whole's second moments are the mean of the batches'."""
  rows = unit(np.asarray(bank, np.float64))
  rank = lambda x: len(x) ** 2 / np.sum((x.T @ x) ** 2)
  batches = np.asarray(selection.epoch_batches(KEY, bank, 12, rule=rule))
  assert 1 / np.mean([1 / rank(rows[batch]) for batch in batches]) <= rank(rows) * (1 + 1e-9)


def test_hard_rules_lower_the_rank_of_batches(bank):
  rows = unit(np.asarray(bank, np.float64))

  def rank(**options):
    batches = np.asarray(selection.epoch_batches(KEY, bank, 11, **options))
    return np.mean([11**2 / np.sum((rows[b] @ rows[b].T) ** 2) for b in batches])

  uniform = rank(rule="random")
  for rule, options in (("cluster", {}), ("gcbs", {"neighbors": 8}), ("b3", {"neighbors": 10, "skip": 0}),
                        ("spectral", {}), ("submodular", {})):
    assert rank(rule=rule, **options) < 0.8 * uniform, rule


@pytest.mark.parametrize("call, message", [
    (dict(rule="gcbs", coverage="independent"), 'rule="gcbs" splits the examples, so that coverage must be "balanced"'),
    (dict(rule="jest"), 'coverage must be "oversampled" or "independent"; got "balanced"'),
    (dict(rule="jest", coverage="oversampled"), "needs reference"),
    (dict(rule="jest", coverage="oversampled", reference=np.ones((9, 2))),
     r"row for each of the 132 embeddings, got shape \(9, 2\)"),
    (dict(rule="b3", cluster_size=7), "cluster_size must divide batch_size=12.*got 7"),
    (dict(rule="b3", skip=-1), "skip must be at least 0, got -1"),
    (dict(rule="spectral", neighbors=0), "neighbors must be at least 1"),
    (dict(rule="spectral", temperature=0.0), "temperature must be a positive finite number"),
    (dict(rule="cluster", clusters=0), "clusters must be at least 1"),
    (dict(rule="submodular", queries=13), "queries must be at most batch_size=12, got 13"),
    (dict(rule="submodular", ceiling=float("nan")), "ceiling must be finite, got nan"),
    (dict(rule="greddy"), "rule must be one of 'random', 'greedy'"),
])
def test_bad_settings_are_named(call, message, bank):
  with pytest.raises(ValueError, match=message):
    selection.epoch_batches(KEY, bank, 12, **call)


@pytest.mark.parametrize("call, message", [
    (lambda x: selection.jest_batch(KEY, x, x[:9], 4), "must embed the same examples, got 12 and 9 rows"),
    (lambda x: selection.jest_batch(KEY, (x, x, x), x, 4), "learner must be one array of embeddings or a tuple of two"),
    (lambda x: selection.jest_batch(KEY, (x, x[:, :2]), x, 4), "two views of learner must have the same shape"),
    (lambda x: selection.jest_batch(KEY, x, x, 4, loss="hinge"), "loss must be one of 'softmax', 'sigmoid'"),
    (lambda x: selection.jest_batch(KEY, x, x.at[3, 0].set(jnp.nan), 4), "reference must be finite.*first row 3"),
    (lambda x: selection.submodular_batch(KEY, x, 4, temperature=-1.0), "temperature must be a positive"),
    (lambda x: selection.submodular_batch(KEY, x, 13), "batch_size must be at most the number of embeddings, 12"),
])
def test_bad_arguments_are_named(call, message):
  with pytest.raises(ValueError, match=message):
    call(jnp.asarray(rows_of(12, 3)))


# A user's own table.

def test_a_table_is_returned_by_epoch():
  table = np.random.default_rng(0).permutation(100)[:96].reshape(8, 12)
  one = selection.check_table(table, 100, 12)
  assert one.dtype == np.int32 and np.array_equal(one, table[None])
  assert selection.check_table([table.tolist(), table[::-1].tolist()], 100, 12).shape == (2, 8, 12)


@pytest.mark.parametrize("change, error, message", [
    (lambda t: t[:7], ValueError, r"must have shape \(8, 12\), or \(epochs, 8, 12\): 100 examples.*got \(7, 12\)"),
    (lambda t: t.ravel(), ValueError, r"got \(96,\)"),
    (lambda t: t[None][:0], ValueError, r"got \(0, 8, 12\)"),
    (lambda t: t + 10, ValueError, "indices from 0 to 99, got 10 to 10"),
    (lambda t: -t, ValueError, "got -9[0-9] to"),
    (lambda t: t.astype(float), TypeError, "must hold integers, got dtype float64"),
    (lambda t: np.where(np.arange(12) == 3, t[:, :1], t), ValueError, "batch 0 of epoch 0 does: example"),
    (lambda t: [[1, 2], [3]], ValueError, "rows have different lengths"),
])
def test_a_table_that_cannot_be_used_is_refused(change, error, message):
  table = np.random.default_rng(0).permutation(100)[:96].reshape(8, 12)
  with pytest.raises(error, match=message):
    selection.check_table(change(table), 100, 12)


def test_comparisons_and_runs_know_the_rules():
  config = load_config("digits")
  for name in (*SPLITS, "submodular", "submodular_balanced"):
    chosen = selection_rules.with_rule(config, name, 0)
    assert chosen.selection.coverage == ("independent" if name == "submodular" else "balanced")
    check_config(chosen)
    check_selection(chosen, 1437)
  assert "gcbs_balanced" not in selection_rules.rule_names()


def test_settings_follow_the_name_of_a_rule():
  config = load_config("digits")
  chosen = selection_rules.with_rule(config, "greedy_target_balanced:target=0.4:bank.refresh_epochs=5", 2)
  assert (chosen.selection.rule, chosen.selection.objective, chosen.selection.coverage) == ("greedy", "target", "balanced")
  assert chosen.selection.target == 0.4 and chosen.bank.refresh_epochs == 5 and chosen.seed == 2
  assert config.selection.target is None and config.bank.refresh_epochs == 1
  for name, message in (("greedy:candidate=8", "Did you mean 'candidates'"), ("greedy:8", "must be KEY=VALUE"),
                        ("gredy:candidates=8", "Did you mean 'greedy'")):
    with pytest.raises(ValueError, match=message):
      selection_rules.with_rule(config, name, 0)
