"""An epoch's batches: which rule chooses, and how the choices of different steps share the examples."""

from functools import partial

import jax
import jax.numpy as jnp
from jax import lax

from spectral_jax._arrays import choice
from spectral_jax.selection import _checks, balanced, pool
from spectral_jax.selection.greedy import greedy_batch
from spectral_jax.selection.hard import hard_batch
from spectral_jax.selection.log_det import log_det_batch
from spectral_jax.selection.uniform import random_batch
from spectral_jax.spectrum import effective_rank

RULES = ("random", "greedy", "pool", "log_det", "hard")
COVERAGES = ("balanced", "oversampled", "independent")
# Batches built in one sequential sweep: enough to fill the processor, few enough to stay linear in the bank.
_SWEEP = 16


def epoch_batches(key, embeddings, batch_size, *, rule="greedy", coverage="balanced", candidates=64, objective="max",
                  target=None, center=False, pools=16, policy="P3", superbatch=16, oversample=2):
  """Builds the `m // batch_size` batches of an epoch.

      "balanced"      a random split into superbatches of `superbatch` batches, whose batches grow together, each in
                      turn taking from what is left the element of its best gain: every example at most once
      "oversampled"   the best batch of each random superbatch of `oversample * batch_size` examples; `oversample`
                      passes over the examples make the epoch, so each is seen at most that often
      "independent"   every batch drawn from all examples: the highest ranks, uneven visits

  A rule that chooses whole batches splits a superbatch as a whole: "pool" keeps the best of `pools` random splits, by
  the mean over its batches; "random" is the random permutation that training uses anyway. Memory is linear in the bank.

  Args:
    key: a JAX random key.
    embeddings: `(m, d)`, unitless; rows are normalised inside.
    batch_size: examples in a batch, at most m; the `m % batch_size` examples left over are other ones each time.
    rule: "random", "greedy", "pool", "log_det" or "hard".
    coverage: "balanced", "oversampled" or "independent".
    candidates, objective, target, center: of the rule "greedy" (see `greedy_batch`); target and center also of "pool".
      Where a superbatch holds fewer than `candidates`, all of it is looked at; None always looks at all.
    pools, policy: of the rule "pool" (see `pool_batch`).
    superbatch: batches that grow together; 16 bounds the cost and fills a processor. As many as fit where fewer do.
    oversample: size of an oversampled superbatch in batches; 2, beyond which visits grow uneven for little rank.

  Returns:
    `(m // batch_size, batch_size)` int32 indices into `embeddings`, no index twice in a row.

  Raises:
    ValueError: an unknown rule or coverage, a batch larger than the bank, candidates < 1 (or, for independent batches,
      more than are left), superbatch < 1, oversample < 1, a target outside (0, 1], rows that are not finite.

  Example:
    >>> import jax
    >>> from spectral_jax.selection import epoch_batches
    >>> bank = jax.random.normal(jax.random.key(0), (100, 8))
    >>> batches = epoch_batches(jax.random.key(1), bank, 10)
    >>> sorted(batches.ravel().tolist()) == list(range(100))
    True
  """
  bank = _checks.check_bank(embeddings, batch_size)
  choice("rule", rule, RULES)
  choice("coverage", coverage, COVERAGES)
  choice("policy", policy, pool.POLICIES)
  _checks.count("pools", pools)
  _checks.count("superbatch", superbatch)
  _checks.count("oversample", oversample)
  _checks.check_candidates(candidates)
  _checks.check_objective(objective, target)
  options = dict(rule=rule, candidates=candidates, objective=objective, center=center, pools=pools, policy=policy)
  if rule == "random" and coverage != "independent":
    return _permuted(key, bank.shape[0], batch_size)
  if coverage == "balanced":
    return _balanced(key, bank, target, batch_size=batch_size, superbatch=superbatch, **options)
  if coverage == "oversampled":
    return _oversampled(key, bank, target, batch_size=batch_size, oversample=oversample, **options)
  return _independent(key, bank, target, batch_size=batch_size, **options)


_OPTIONS = ("batch_size", "rule", "candidates", "objective", "center", "pools", "policy")


@partial(jax.jit, static_argnums=(1, 2))
def _permuted(key, m, batch_size):
  steps = m // batch_size
  return jax.random.permutation(key, m)[:steps * batch_size].reshape(steps, batch_size).astype(jnp.int32)


@partial(jax.jit, static_argnames=_OPTIONS)
def _independent(key, bank, target, *, batch_size, **options):
  keys = jax.random.split(key, bank.shape[0] // batch_size)
  return _in_sweeps(lambda one: _one_batch(one, bank, target, batch_size, **options), keys)


@partial(jax.jit, static_argnames=(*_OPTIONS, "oversample"))
def _oversampled(key, bank, target, *, batch_size, oversample, **options):
  m = bank.shape[0]
  steps = m // batch_size
  of = min(oversample, steps)
  a_pass = m // (of * batch_size)
  order_key, rule_key = jax.random.split(key)
  passes = jax.random.split(order_key, -(-steps // a_pass))
  orders = jax.vmap(lambda one: jax.random.permutation(one, m)[:a_pass * of * batch_size])(passes)
  superbatches = orders.reshape(-1, of * batch_size)[:steps].astype(jnp.int32)

  def best(key_and_members):
    one, members = key_and_members
    return members[_one_batch(one, bank[members], target, batch_size, **options)]

  return _in_sweeps(best, (jax.random.split(rule_key, steps), superbatches))


def _in_sweeps(build, xs):
  """Maps `build` over leading axes, a few at a time; the last sweep is filled up, so that one is compiled for all."""
  steps = jax.tree.leaves(xs)[0].shape[0]
  sweeps = -(-steps // _SWEEP)
  each = -(-steps // sweeps)
  which = (jnp.arange(sweeps * each) % steps).reshape(sweeps, each)
  built = lax.map(lambda some: jax.vmap(build)(jax.tree.map(lambda x: x[some], xs)), which)
  return built.reshape(sweeps * each, -1)[:steps]


def _one_batch(key, bank, target, batch_size, *, rule, candidates, objective, center, pools, policy):
  """One batch by a rule's own function."""
  if rule == "greedy":
    return greedy_batch(key, bank, batch_size, candidates=candidates, objective=objective, target=target, center=center)
  if rule == "pool":
    return pool.pool_batch(key, bank, batch_size, pools=pools, policy=policy, target=target, center=center)
  return {"log_det": log_det_batch, "hard": hard_batch, "random": random_batch}[rule](key, bank, batch_size)


@partial(jax.jit, static_argnames=(*_OPTIONS, "superbatch"))
def _balanced(key, bank, target, *, batch_size, superbatch, **options):
  order_key, rule_key, shuffle_key = jax.random.split(key, 3)
  batches = _permuted(order_key, bank.shape[0], batch_size)
  steps = batches.shape[0]
  # As few superbatches as the limit allows, of sizes that differ by at most one batch.
  groups = -(-steps // superbatch)
  small, larger = divmod(steps, groups)
  keys = jax.random.split(rule_key, groups)

  def split(key_and_members, parts):
    one, members = key_and_members
    return members[_split(one, _checks.directions(bank[members]), parts, target, **options)]

  parts, start = [], 0
  for number, each, some_keys in ((larger, small + 1, keys[:larger]), (groups - larger, small, keys[larger:])):
    if number:
      members = batches[start:start + number * each].reshape(number, each * batch_size)
      parts.append(lax.map(partial(split, parts=each), (some_keys, members)).reshape(-1, batch_size))
      start += number * each
  # The first in turn choose a little better: steps come in random order, so that training sees no pattern.
  return jax.random.permutation(shuffle_key, jnp.concatenate(parts))


def _split(key, rows, parts, target, *, rule, candidates, objective, center, pools, policy):
  """Splits a superbatch's unit rows into `parts` batches."""
  if rule == "log_det":
    return balanced.grow_log_det(rows, parts)
  if rule == "hard":
    return balanced.grow_hard(rows, parts)
  if rule == "pool":
    most = min(rows.shape[0] // parts, rows.shape[1])
    return balanced.split_pool(key, rows, parts, pools=pools,
                               rank=partial(effective_rank, kind="participation", center=center),
                               cost=partial(pool.pool_costs, policy=policy, target=target, most=most))
  greedy = dict(objective=objective, target=target, center=center)
  if candidates is None or candidates >= rows.shape[0]:
    return balanced.grow_greedy(rows, parts, **greedy)
  return balanced.grow_greedy_few(key, rows, parts, candidates=candidates, **greedy)
