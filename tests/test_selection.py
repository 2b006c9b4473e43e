"""Batch selection against slow NumPy loops written from the definition of the participation ratio."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from spectral_jax import selection
from spectral_jax.selection import _draw, balanced

KEY = jax.random.key(7)


def unit(x):
  return x / np.linalg.norm(x, axis=1, keepdims=True)


def bank_of(m, d, seed=0):
  """Anisotropic rows, not normalized."""
  rng = np.random.default_rng(seed)
  return rng.normal(size=(m, d)) * np.exp(-np.arange(d) / d) + 0.3 * rng.normal(size=d)


def participation(rows, center=False):
  """1 / sum p^2 over the eigenvalues of the second-moment matrix or the covariance."""
  if center:
    rows = rows - rows.mean(0)
  values = np.linalg.eigvalsh(rows.T @ rows / len(rows))
  return values.sum() ** 2 / (values**2).sum()


def slow_cost(chosen, x, objective, target, center):
  # Two rows always span one direction about their mean; the second element is judged uncentered.
  rank = participation(np.vstack([chosen, x]), center and len(chosen) > 1)
  most = min(len(chosen) + 1, len(x))
  return {"max": -rank, "min": rank, "target": abs(rank - (target or 0) * most)}[objective]


def slow_greedy(bank, first, looked_at, objective="max", target=None, center=False):
  """`looked_at(k, taken)` lists the candidates of step k."""
  rows, taken = unit(bank), [first]
  while (candidates := looked_at(len(taken), taken)) is not None:
    costs = [slow_cost(rows[taken], rows[i], objective, target, center) for i in candidates]
    taken.append(int(candidates[int(np.argmin(costs))]))
  return taken


@pytest.mark.parametrize("objective, target, center", [
    ("max", None, False), ("min", None, False), ("target", 0.4, False), ("max", None, True), ("target", 0.3, True)])
def test_greedy_over_all_equals_the_naive_greedy(objective, target, center):
  bank, size = bank_of(70, 9), 20
  with jax.enable_x64(True):
    got = np.asarray(selection.greedy_batch(
        KEY, jnp.asarray(bank), size, candidates=None, objective=objective, target=target, center=center))
  everything = lambda k, taken: None if k == size else [i for i in range(70) if i not in taken]
  assert got.tolist() == slow_greedy(bank, int(got[0]), everything, objective, target, center)


@pytest.mark.parametrize("center", [False, True])
def test_greedy_over_few_equals_the_naive_greedy_with_the_same_candidates(center):
  bank, size, few = bank_of(60, 7), 16, 11
  with jax.enable_x64(True):
    got = np.asarray(selection.greedy_batch(KEY, jnp.asarray(bank), size, candidates=few, center=center))
    draw = jax.jit(lambda k: _draw.distinct(jax.random.fold_in(KEY, k), few, 60 - k))
    places = [np.asarray(draw(k)) for k in range(size)]
  left = list(range(60))

  def looked_at(k, taken):
    gone = left.index(taken[-1])
    left[gone] = left[60 - k]
    return None if k == size else [left[i] for i in places[k]]

  assert got[0] in places[0]
  assert got.tolist() == slow_greedy(bank, int(got[0]), looked_at, center=center)


@pytest.mark.parametrize("candidates", [45, 64, 1000])
def test_greedy_looks_at_up_to_its_number_of_candidates(candidates):
  """Where fewer are left it looks at all of them: 1,000 candidates of 60 are the naive greedy over everything."""
  bank, size = bank_of(60, 7), 30
  with jax.enable_x64(True):
    got = np.asarray(selection.greedy_batch(KEY, jnp.asarray(bank), size, candidates=candidates)).tolist()
    draw = jax.jit(lambda k, left: _draw.distinct(jax.random.fold_in(KEY, k), 45, left))
    places = [np.asarray(draw(k, max(60 - k, 45))) for k in range(size)]
  left = list(range(60))

  def looked_at(k, taken):
    gone = left.index(taken[-1])
    left[gone] = left[60 - k]
    return None if k == size else [left[i] for i in (places[k] if candidates < 60 - k else range(60 - k))]

  assert got == slow_greedy(bank, got[0], looked_at)


@pytest.mark.parametrize("candidates", [3, 8, 12])
def test_the_whole_bank_is_taken_once_where_candidates_outnumber_what_is_left(candidates):
  bank = bank_of(12, 3)
  build = functools.partial(selection.greedy_batch, embeddings=bank, batch_size=12, candidates=candidates, objective="min")
  for batch in jax.vmap(build)(jax.random.split(KEY, 50)):
    assert sorted(batch.tolist()) == list(range(12))


@pytest.mark.parametrize("m, size", [(64, 8), (9, 9), (1, 1)])
def test_defaults_serve_banks_of_any_size(m, size):
  bank = jnp.asarray(bank_of(m, 5), jnp.float32)
  for build in (selection.greedy_batch, selection.pool_batch, selection.log_det_batch, selection.hard_batch,
                selection.random_batch):
    assert len(set(np.asarray(build(KEY, bank, size)).tolist())) == size
  for coverage in ("balanced", "oversampled", "independent"):
    batches = np.asarray(selection.epoch_batches(KEY, bank, size, coverage=coverage))
    assert batches.shape == (m // size, size) and all(len(set(row)) == size for row in batches.tolist())


@pytest.mark.parametrize("candidates", [None, 8])
def test_the_first_element_is_drawn_uniformly(candidates):
  bank, keys = jnp.asarray(bank_of(8, 4)), jax.random.split(KEY, 4000)
  first = jax.vmap(lambda key: selection.greedy_batch(key, bank, 2, candidates=candidates)[0])(keys)
  counts = np.bincount(np.asarray(first), minlength=8)
  assert ((counts - 500) ** 2 / 500).sum() < 24.3  # chi squared of 7 degrees of freedom: 1 in 1,000


@pytest.mark.parametrize("objective", ["max", "min"])
def test_rows_without_direction_are_taken_last(objective):
  bank = jnp.asarray(bank_of(12, 4)).at[::2].set(0)
  batches = selection.epoch_batches(KEY, bank, 4, coverage="balanced", candidates=None, objective=objective)
  assert (np.asarray(batches) % 2 == 0).tolist() == [[False, False, True, True]] * 3


def test_single_precision_builds_the_same_batch():
  bank = bank_of(300, 16)
  got = np.asarray(selection.greedy_batch(KEY, jnp.asarray(bank, jnp.float32), 60, candidates=None)).tolist()
  everything = lambda k, taken: None if k == 60 else [i for i in range(300) if i not in taken]
  assert got == slow_greedy(bank, got[0], everything)


def test_draws_are_distinct_and_uniform_over_subsets():
  keys = jax.random.split(KEY, 30_000)
  draws = np.sort(np.asarray(jax.jit(jax.vmap(lambda key: _draw.distinct(key, 3, 6)))(keys)), axis=1)
  subsets, counts = np.unique(draws, axis=0, return_counts=True)
  assert len(subsets) == 20 and (np.diff(draws, axis=1) > 0).all()
  expected = 30_000 / 20
  # Chi-square with 19 degrees of freedom: 50 has probability 1.3e-4 for a uniform draw.
  assert ((counts - expected) ** 2 / expected).sum() < 50


@pytest.mark.parametrize("count, size", [(1, 1), (200, 201), (300, 300)])
def test_draws_fill_any_size(count, size):
  keys = jax.random.split(KEY, 20)
  draws = np.asarray(jax.jit(jax.vmap(lambda key: _draw.distinct(key, count, size)))(keys))
  assert draws.min() >= 0 and draws.max() < size
  assert all(len(set(row)) == count for row in draws)


def test_candidates_are_uniform_among_those_left_and_so_is_the_first_element():
  bank = jnp.asarray(bank_of(12, 4), jnp.float32)
  keys = jax.random.split(KEY, 6000)
  built = np.asarray(jax.vmap(lambda key: selection.greedy_batch(key, bank, 3, candidates=4))(keys))
  counts = np.bincount(built[:, 0], minlength=12)
  assert ((counts - 500) ** 2 / 500).sum() < 40  # chi-square, 11 degrees of freedom: probability 4e-5
  one = np.asarray(jax.vmap(lambda key: selection.greedy_batch(key, bank, 3, candidates=1))(keys))
  counts = np.bincount(one[:, 2], minlength=12)
  assert ((counts - 500) ** 2 / 500).sum() < 40


def test_log_det_equals_the_naive_determinant_greedy_also_beyond_the_rank():
  bank, size, ridge = bank_of(40, 6), 12, 1e-3
  with jax.enable_x64(True):
    got = np.asarray(selection.log_det_batch(KEY, jnp.asarray(bank), size, ridge=ridge)).tolist()
  rows, taken = unit(bank), got[:1]
  kernel = rows @ rows.T + ridge * np.eye(40)
  while len(taken) < size:
    left = [i for i in range(40) if i not in taken]
    values = [np.linalg.slogdet(kernel[np.ix_([*taken, i], [*taken, i])])[1] for i in left]
    taken.append(left[int(np.argmax(values))])
  assert got == taken


def test_pools_are_judged_by_their_rank():
  bank = bank_of(200, 8)
  rows = unit(bank)
  draw = jax.jit(lambda key: _draw.distinct(key, 24, 200))
  pools = [np.asarray(draw(key)) for key in jax.random.split(KEY, 9)]
  ranks = np.array([participation(rows[pool]) for pool in pools])
  best = {"P1": np.argmin(ranks), "P3": np.argmax(ranks), "P2": np.argmin(abs(ranks - np.median(ranks)))}
  pick = functools.partial(selection.pool_batch, KEY, jnp.asarray(bank, jnp.float32), 24, pools=9)
  for policy, which in best.items():
    assert np.array_equal(pick(policy=policy), pools[which])
  assert np.array_equal(pick(policy="P2", target=0.7), pools[np.argmin(abs(ranks - 0.7 * 8))])
  centered = [participation(rows[pool], center=True) for pool in pools]
  assert np.array_equal(pick(center=True), pools[int(np.argmax(centered))])


def test_hard_takes_the_nearest_neighbors_of_its_seed():
  bank = bank_of(80, 5)
  got = np.asarray(selection.hard_batch(KEY, jnp.asarray(bank, jnp.float32), 10))
  similarity = unit(bank) @ unit(bank)[got[0]]
  assert got.tolist() == np.argsort(-similarity)[:10].tolist()


def test_hard_starts_with_its_seed_among_duplicates():
  bank = jnp.ones((50, 3))
  seeds = {int(selection.hard_batch(key, bank, 4)[0]) for key in jax.random.split(KEY, 12)}
  assert len(seeds) > 4


def slow_balanced(bank, batches, size, objective, target, center):
  rows, taken, free = unit(bank), [[] for _ in range(batches)], list(range(len(bank)))
  for k in range(size):
    for turn in range(batches):
      batch = taken[(k + turn) % batches]
      if k == 0:
        batch.append(free.pop(0))
        continue
      costs = [slow_cost(rows[batch], rows[i], objective, target, center) for i in free]
      batch.append(free.pop(int(np.argmin(costs))))
  return taken


@pytest.mark.parametrize("objective, target, center", [("max", None, False), ("target", 0.5, True)])
def test_balanced_batches_take_turns_for_what_is_left(objective, target, center):
  bank, batches, size = bank_of(48, 7), 4, 12
  expected = slow_balanced(bank, batches, size, objective, target, center)
  with jax.enable_x64(True):
    rows = jnp.asarray(unit(bank))
    options = dict(objective=objective, target=target, center=center)
    everything = balanced.grow_greedy(rows, batches, **options)
    few = balanced.grow_greedy_few(KEY, rows, batches, candidates=48, **options)
  assert np.asarray(everything).tolist() == expected
  # With as many candidates as there are rows, both ways are the same one.
  assert np.asarray(few).tolist() == expected


@pytest.fixture(scope="module")
def digits_like():
  """A bank with clusters, as embeddings have."""
  rng = np.random.default_rng(3)
  centers = rng.normal(size=(12, 16)) * np.exp(-np.arange(16) / 6)
  rows = centers[rng.integers(0, 12, 530)] + 0.4 * rng.normal(size=(530, 16)) * np.exp(-np.arange(16) / 6)
  return jnp.asarray(rows, jnp.float32)


@pytest.mark.parametrize("rule, options", [
    ("random", {}), ("greedy", {}), ("greedy", {"superbatch": 3, "candidates": None}), ("pool", {}), ("log_det", {}),
    ("hard", {})])
def test_balanced_epochs_see_every_example_once(digits_like, rule, options):
  batches = np.asarray(selection.epoch_batches(KEY, digits_like, 32, rule=rule, **options))
  assert batches.shape == (530 // 32, 32) and batches.dtype == np.int32
  assert len(np.unique(batches)) == batches.size


@pytest.mark.parametrize("rule, coverage", [
    ("greedy", "oversampled"), ("hard", "oversampled"), ("log_det", "oversampled"), ("random", "independent"),
    ("greedy", "independent"), ("pool", "independent")])
def test_other_coverages_repeat_examples_only_between_batches(digits_like, rule, coverage):
  batches = np.asarray(selection.epoch_batches(KEY, digits_like, 32, rule=rule, coverage=coverage))
  assert batches.shape == (16, 32)
  assert all(len(set(row)) == 32 for row in batches)
  if coverage == "oversampled":
    assert np.bincount(batches.ravel()).max() <= 2


def test_coverages_order_the_ranks_as_they_should(digits_like):
  rows = unit(np.asarray(digits_like, np.float64))
  ranks = lambda **kw: np.array([participation(rows[b]) for b in
                                 np.asarray(selection.epoch_batches(KEY, digits_like, 32, **kw))])
  uniform, grown = ranks(rule="random"), ranks()
  free, doubled = ranks(coverage="independent"), ranks(coverage="oversampled")
  assert uniform.mean() < grown.mean() < doubled.mean() < free.mean()
  assert grown.max() - grown.min() < uniform.max() - uniform.min()  # balanced batches end nearly equal
  assert ranks(rule="hard").mean() < uniform.mean()


RULES = {
    "greedy": functools.partial(selection.greedy_batch, candidates=8),
    "pool": functools.partial(selection.pool_batch, pools=4),
    "log_det": selection.log_det_batch,
    "hard": selection.hard_batch,
    "random": selection.random_batch,
}


@pytest.mark.parametrize("rule", RULES)
def test_rules_are_deterministic_and_the_same_under_jit_and_vmap(digits_like, rule):
  one = RULES[rule]
  keys = jax.random.split(KEY, 3)
  singly = np.stack([one(key, digits_like, 20) for key in keys])
  assert np.array_equal(singly, jax.jit(jax.vmap(lambda key, bank: one(key, bank, 20), (0, None)))(keys, digits_like))
  assert singly.dtype == np.int32 and singly.shape == (3, 20)
  assert all(len(set(row)) == 20 for row in singly)
  assert len({tuple(sorted(row)) for row in singly}) == 3


@pytest.mark.parametrize("rule", RULES)
def test_scale_of_rows_does_not_matter(digits_like, rule):
  scales = jnp.asarray(2.0 ** np.random.default_rng(0).integers(-20, 20, (530, 1)), jnp.float32)
  assert np.array_equal(RULES[rule](KEY, digits_like, 20), RULES[rule](KEY, digits_like * scales, 20))


@pytest.mark.parametrize("rule, dtype", [("greedy", jnp.bfloat16), ("pool", jnp.float16), ("hard", jnp.bfloat16)])
def test_half_precision_banks_are_judged_in_single(digits_like, rule, dtype):
  half = digits_like.astype(dtype)
  assert np.array_equal(RULES[rule](KEY, half, 20), RULES[rule](KEY, half.astype(jnp.float32), 20))


@pytest.mark.parametrize("rule", ["greedy", "log_det", "hard"])
def test_rows_without_direction_come_last(rule):
  build = RULES[rule] if rule != "greedy" else functools.partial(selection.greedy_batch, candidates=None)
  traced = jax.jit(lambda bank: build(KEY, bank, 25))
  for bad in (0.0, np.nan, np.inf):
    bank = bank_of(40, 6).astype(np.float32)
    bank[::2] = bad
    got = np.asarray(traced(bank))
    assert set(got[:20] % 2) == {1} and set(got[20:] % 2) == {0} and len(set(got)) == 25


def test_pools_and_balanced_batches_survive_rows_without_direction():
  bank = bank_of(40, 6).astype(np.float32)
  bank[:7] = 0
  kept = np.asarray(selection.pool_batch(KEY, bank, 5, pools=64))
  assert kept.min() >= 7
  for rule in ("greedy", "hard"):
    assert len(np.unique(selection.epoch_batches(KEY, bank, 8, rule=rule, superbatch=3))) == 40


def test_duplicates_and_single_rows_are_no_trouble():
  for options in ({"candidates": None}, {"candidates": 1, "center": True}):
    built = selection.greedy_batch(KEY, jnp.ones((9, 3)), 9, **options)
    assert sorted(np.asarray(built).tolist()) == list(range(9))
  assert np.asarray(selection.greedy_batch(KEY, jnp.ones((1, 1)), 1, candidates=None)).tolist() == [0]
  assert selection.epoch_batches(KEY, jnp.ones((3, 1)), 2, superbatch=5).shape == (1, 2)


@pytest.mark.parametrize("call, message", [
    (lambda x: selection.greedy_batch(KEY, x, 31), "batch_size must be at most the number of embeddings, 30, got 31"),
    (lambda x: selection.hard_batch(KEY, x, 0), "batch_size must be at least 1"),
    (lambda x: selection.greedy_batch(KEY, x, 10, candidates=0), "candidates must be at least 1"),
      (lambda x: selection.epoch_batches(KEY, x, 10, coverage="independent", candidates=0),
     "candidates must be at least 1"),
    (lambda x: selection.greedy_batch(KEY, x, 4, candidates=2, objective="target", target=1.5),
     r"target must lie in \(0, 1\]"),
    (lambda x: selection.greedy_batch(KEY, x, 4, candidates=2, objective="target"), "needs target"),
    (lambda x: selection.pool_batch(KEY, x, 4, policy="P2", target=0.0), r"target must lie in \(0, 1\]"),
    (lambda x: selection.pool_batch(KEY, x, 4, policy="P4"), "policy must be one of 'P1', 'P2', 'P3'"),
    (lambda x: selection.pool_batch(KEY, x, 4, pools=0), "pools must be at least 1"),
    (lambda x: selection.greedy_batch(KEY, x, 4, candidates=2, objective="best"), "objective must be one of"),
    (lambda x: selection.log_det_batch(KEY, x, 4, ridge=0.0), "ridge must be a positive finite number"),
    (lambda x: selection.epoch_batches(KEY, x, 4, rule="easy"), "rule must be one of"),
    (lambda x: selection.epoch_batches(KEY, x, 4, coverage="all"), "coverage must be one of"),
    (lambda x: selection.epoch_batches(KEY, x, 4, superbatch=0), "superbatch must be at least 1"),
    (lambda x: selection.random_batch(KEY, x.at[5, 1].set(jnp.nan), 4), "1 of 30 rows are not, first row 5"),
    (lambda x: selection.random_batch(KEY, x[0], 4), r"embeddings must have shape \(m, d\)"),
])
def test_bad_input_is_named(call, message):
  with pytest.raises(ValueError, match=message):
    call(jnp.asarray(bank_of(30, 4), jnp.float32))


def test_a_bank_that_a_jitted_function_closes_over_is_checked_too():
  bank = jnp.asarray(bank_of(30, 4), jnp.float32)
  build = lambda bank: jax.jit(lambda key: selection.greedy_batch(key, bank, 8, candidates=4))(KEY)
  np.testing.assert_array_equal(build(bank), selection.greedy_batch(KEY, bank, 8, candidates=4))
  with pytest.raises(ValueError, match="1 of 30 rows are not, first row 5"):
    build(bank.at[5, 1].set(jnp.nan))


def test_wrong_types_are_named():
  with pytest.raises(TypeError, match="embeddings must hold floating-point numbers, got dtype int32"):
    selection.random_batch(KEY, jnp.ones((4, 2), jnp.int32), 2)
  for wrong in (None, "abc", [[1.0], [1.0, 2.0]], np.array([[object()]])):
    with pytest.raises((TypeError, ValueError), match="^embeddings must be an array"):
      selection.random_batch(KEY, wrong, 2)
  with pytest.raises(TypeError, match="batch_size must be a Python integer"):
    selection.hard_batch(KEY, jnp.ones((4, 2)), 2.0)
  bank = jnp.ones((4, 2))
  for call in (selection.random_batch, selection.greedy_batch, selection.pool_batch, selection.log_det_batch,
               selection.hard_batch, selection.submodular_batch, selection.epoch_batches,
               lambda key, bank, size: selection.jest_batch(key, bank, bank, size)):
    for key in (0, jnp.zeros(()), jax.random.split(KEY, 2)):
      with pytest.raises(TypeError, match=r"key must be one key of jax.random, got .*; make it with jax.random.key"):
        call(key, bank, 2)


@pytest.mark.parametrize("call", [
    *(functools.partial(rule, batch_size=8) for rule in (
        selection.greedy_batch, selection.pool_batch, selection.log_det_batch, selection.hard_batch,
        selection.random_batch)),
    *(functools.partial(selection.epoch_batches, batch_size=8, rule=rule, coverage=coverage)
      for rule, coverage in (("greedy", "balanced"), ("pool", "oversampled"), ("random", "balanced"),
                             ("hard", "independent"), ("log_det", "balanced")))])
def test_a_second_call_compiles_nothing(call):
  bank = jnp.asarray(bank_of(48, 5), jnp.float32)
  other = bank[::-1] + 0
  keys = jax.random.split(KEY, 2)
  call(keys[0], bank)
  heard = []
  listen = lambda event, duration, **_: heard.append(event)
  jax.monitoring.register_event_duration_secs_listener(listen)
  try:
    call(keys[1], other)
    second = [event for event in heard if event.startswith("/jax/core/compile")]
    jax.jit(lambda x: x + 1)(other)
  finally:
    jax.monitoring.unregister_event_duration_listener(listen)
  assert not second and heard
