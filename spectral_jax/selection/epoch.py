"""An epoch's batches: which rule chooses, and how the choices of different steps share the examples."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

import jax
import jax.numpy as jnp
from jax import lax

from spectral_jax._arrays import choice, positive
from spectral_jax.selection import _checks, balanced, pool, submodular
from spectral_jax.selection.b3 import b3_order
from spectral_jax.selection.cluster import cluster_order
from spectral_jax.selection.gcbs import gcbs_order
from spectral_jax.selection.greedy import greedy_batch
from spectral_jax.selection.hard import hard_batch
from spectral_jax.selection.jest import jest_batch
from spectral_jax.selection.log_det import log_det_batch
from spectral_jax.selection.spectral import split_spectral
from spectral_jax.selection.uniform import random_batch
from spectral_jax.spectrum import effective_rank

if TYPE_CHECKING:
  from typing import Literal

  from jaxtyping import Array, ArrayLike, Float, Int32, PRNGKeyArray

  from spectral_jax._types import Scalar

# These put all of an epoch's examples in one order, and cut it into batches.
ORDERS = ("cluster", "gcbs", "b3")
# These split a set of examples, and cannot draw a single batch.
SPLITS = (*ORDERS, "spectral")
RULES = ("random", "greedy", "pool", "log_det", "hard", "submodular", "jest", *SPLITS)
COVERAGES = ("balanced", "oversampled", "independent")
NEIGHBORS = {"gcbs": 16, "spectral": 32, "b3": 100}
COMMUNITY = 32
# Batches built in one sequential sweep: enough to fill the processor, few enough to stay linear in the bank.
_SWEEP = 16


def epoch_batches(key: PRNGKeyArray, embeddings: Float[ArrayLike, "m d"], batch_size: int, *, rule: str = "greedy",
                  coverage: Literal["balanced", "oversampled", "independent"] = "balanced", candidates: int | None = 64,
                  objective: Literal["max", "min", "target"] = "max", target: Scalar | None = None,
                  center: bool = False, pools: int = 16, policy: Literal["P1", "P2", "P3"] = "P3", superbatch: int = 16,
                  oversample: int = 2, clusters: int = 10, neighbors: int | None = None, skip: int = 30,
                  cluster_size: int | None = None, queries: int | None = None, temperature: Scalar = 0.1,
                  ceiling: Scalar = 0.95, chunks: int = 16,
                  reference: Float[ArrayLike, "m r"] | None = None) -> Int32[Array, "steps b"]:
  """Builds the `m // batch_size` batches of an epoch.

  - "balanced": a random split into superbatches of `superbatch` batches, whose batches grow together, each in turn
    taking from what is left the element of its best gain: every example at most once;
  - "oversampled": the best batch of each random superbatch of `oversample * batch_size` examples; `oversample` passes
    over the examples make the epoch, so each is seen at most that often;
  - "independent": every batch drawn from all examples: the highest ranks, uneven visits.

  A rule that chooses whole batches splits a superbatch as a whole: "pool" keeps the best of `pools` random splits, by
  the mean over its batches; "random" is the random permutation that training uses anyway. "spectral" splits each
  superbatch, and "cluster", "gcbs" and "b3" the whole epoch: their coverage is "balanced". "jest" leaves examples out:
  its coverage is "oversampled" or "independent". Memory is linear in the bank for every rule; "gcbs" and "b3" take
  m^2 d operations, "spectral" m d times the superbatch.

  Args:
    key: a JAX random key.
    embeddings: `(m, d)`, unitless; rows are normalized inside.
    batch_size: examples in a batch, at most m; the `m % batch_size` examples left over are other ones each time.
    rule: "random", "greedy", "pool", "log_det", "hard", "submodular", "jest", "spectral", "cluster", "gcbs" or "b3".
    coverage: "balanced", "oversampled" or "independent".
    candidates: of "greedy" and "submodular": examples looked at for each element; where fewer are left, all. None
      always looks at all, as balanced "submodular" does anyway.
    objective, target, center: of the rule "greedy" (see `greedy_batch`); target and center also of "pool".
    pools, policy: of the rule "pool" (see `pool_batch`).
    superbatch: batches that grow together; 16 bounds the cost and fills a processor. As many as fit where fewer do.
    oversample: size of an oversampled superbatch in batches; 2, beyond which visits grow uneven for little rank. The
      JEST paper's is 5.
    clusters: of "cluster": clusters of k-means, 10 as in the paper.
    neighbors: of "gcbs", "spectral" and "b3": neighbors of an example in their graph; None means 16, 32 and 100.
    skip: of "b3": nearest neighbors left out as likely positives, 30 as in the authors' files.
    cluster_size: of "b3": examples in a community, a divisor of batch_size; None means 32, the authors', or batch_size
      where 32 does not divide it.
    queries, ceiling: of "submodular" (see `submodular_batch`).
    temperature: of the losses that "submodular", "spectral" and "jest" look at.
    chunks, reference: of "jest" (see `jest_batch`): the reference's embeddings `(m, d')`, which it needs.

  Returns:
    `(m // batch_size, batch_size)` int32 indices into `embeddings`, no index twice in a row.

  Raises:
    ValueError: an unknown rule or coverage, or one that does not go with the rule, a batch larger than the bank, a
      count below 1, a target outside (0, 1], a temperature that is not positive, rows that are not finite.

  Example:
    >>> import jax
    >>> from spectral_jax.selection import epoch_batches
    >>> bank = jax.random.normal(jax.random.key(0), (100, 8))
    >>> batches = epoch_batches(jax.random.key(1), bank, 10)
    >>> sorted(batches.ravel().tolist()) == list(range(100))
    True

  Reference: the sources of the rules are in docs/selection.md and in the rules' modules.
  """
  _checks.check_key(key)
  bank = _checks.check_bank(embeddings, batch_size)
  choice("rule", rule, RULES)
  choice("coverage", coverage, COVERAGES)
  _check_coverage(rule, coverage)
  choice("policy", policy, pool.POLICIES)
  for name, value in (("pools", pools), ("superbatch", superbatch), ("oversample", oversample), ("clusters", clusters),
                      ("chunks", chunks)):
    _checks.count(name, value)
  _checks.check_candidates(candidates)
  _checks.check_objective(objective, target)
  options = dict(rule=rule, candidates=candidates, objective=objective, center=center, pools=pools, policy=policy,
                 clusters=clusters, neighbors=_neighbors(rule, neighbors), skip=_checks.count("skip", skip, least=0),
                 cluster_size=_cluster_size(cluster_size, batch_size),
                 queries=submodular.check_queries(queries, batch_size), chunks=chunks)
  scalars = dict(target=target, temperature=positive("temperature", temperature),
                 ceiling=submodular.check_ceiling(ceiling))
  banks = (bank, _reference(reference, bank, batch_size)) if rule == "jest" else (bank, None)
  if rule == "random" and coverage != "independent":
    return _permuted(key, bank.shape[0], batch_size)
  if rule in ORDERS:
    return _ordered(key, bank, batch_size=batch_size, **options)
  if coverage == "balanced":
    return _balanced(key, bank, scalars, batch_size=batch_size, superbatch=superbatch, **options)
  if coverage == "oversampled":
    return _oversampled(key, banks, scalars, batch_size=batch_size, oversample=oversample, **options)
  return _independent(key, banks, scalars, batch_size=batch_size, **options)


def _check_coverage(rule, coverage):
  if rule in SPLITS and coverage != "balanced":
    raise ValueError(f'rule="{rule}" splits the examples, so that coverage must be "balanced"; got "{coverage}"')
  if rule == "jest" and coverage == "balanced":
    raise ValueError('rule="jest" chooses some examples and leaves others out, so that coverage must be "oversampled" '
                     'or "independent"; got "balanced"')


def _neighbors(rule, neighbors):
  return NEIGHBORS.get(rule, 1) if neighbors is None else _checks.count("neighbors", neighbors)


def _cluster_size(cluster_size, batch_size):
  if cluster_size is None:
    return batch_size if batch_size % COMMUNITY else COMMUNITY
  if batch_size % _checks.count("cluster_size", cluster_size):
    raise ValueError(f"cluster_size must divide batch_size={batch_size}, since a batch is made of whole communities; "
                     f"got {cluster_size}")
  return cluster_size


def _reference(reference, bank, batch_size):
  if reference is None:
    raise ValueError('rule="jest" needs reference, the embeddings of the same examples by a reference model; got None')
  if jnp.shape(reference)[:1] != bank.shape[:1]:
    raise ValueError(f"reference must have a row for each of the {bank.shape[0]} embeddings, got shape "
                     f"{jnp.shape(reference)}")
  return _checks.check_bank(reference, batch_size, "reference")


_OPTIONS = ("batch_size", "rule", "candidates", "objective", "center", "pools", "policy", "clusters", "neighbors",
            "skip", "cluster_size", "queries", "chunks")


@partial(jax.jit, static_argnums=(1, 2))
def _permuted(key, m, batch_size):
  steps = m // batch_size
  return jax.random.permutation(key, m)[:steps * batch_size].reshape(steps, batch_size).astype(jnp.int32)


@partial(jax.jit, static_argnames=_OPTIONS)
def _independent(key, banks, scalars, *, batch_size, **options):
  keys = jax.random.split(key, banks[0].shape[0] // batch_size)
  return _in_sweeps(lambda one: _one_batch(one, banks, scalars, batch_size, **options), keys)


@partial(jax.jit, static_argnames=(*_OPTIONS, "oversample"))
def _oversampled(key, banks, scalars, *, batch_size, oversample, **options):
  m = banks[0].shape[0]
  steps = m // batch_size
  of = min(oversample, steps)
  a_pass = m // (of * batch_size)
  order_key, rule_key = jax.random.split(key)
  passes = jax.random.split(order_key, -(-steps // a_pass))
  orders = jax.vmap(lambda one: jax.random.permutation(one, m)[:a_pass * of * batch_size])(passes)
  superbatches = orders.reshape(-1, of * batch_size)[:steps].astype(jnp.int32)

  def best(key_and_members):
    one, members = key_and_members
    some = jax.tree.map(lambda bank: bank[members], banks)
    return members[_one_batch(one, some, scalars, batch_size, **options)]

  return _in_sweeps(best, (jax.random.split(rule_key, steps), superbatches))


def _in_sweeps(build, xs):
  """Maps `build` over leading axes, a few at a time; the last sweep is filled up, so that one is compiled for all."""
  steps = jax.tree.leaves(xs)[0].shape[0]
  sweeps = -(-steps // _SWEEP)
  each = -(-steps // sweeps)
  which = (jnp.arange(sweeps * each) % steps).reshape(sweeps, each)
  built = lax.map(lambda some: jax.vmap(build)(jax.tree.map(lambda x: x[some], xs)), which)
  return built.reshape(sweeps * each, -1)[:steps]


def _one_batch(key, banks, scalars, batch_size, *, rule, candidates, objective, center, pools, policy, queries, chunks,
               **_):
  """One batch by a rule's own function."""
  bank, reference = banks
  if rule == "greedy":
    return greedy_batch(key, bank, batch_size, candidates=candidates, objective=objective, target=scalars["target"],
                        center=center)
  if rule == "pool":
    return pool.pool_batch(key, bank, batch_size, pools=pools, policy=policy, target=scalars["target"], center=center)
  if rule == "submodular":
    return submodular.submodular_batch(key, bank, batch_size, candidates=candidates, queries=queries,
                                       temperature=scalars["temperature"], ceiling=scalars["ceiling"])
  if rule == "jest":
    return jest_batch(key, bank, reference, batch_size, chunks=chunks, temperature=scalars["temperature"])
  return {"log_det": log_det_batch, "hard": hard_batch, "random": random_batch}[rule](key, bank, batch_size)


@partial(jax.jit, static_argnames=(*_OPTIONS, "superbatch"))
def _balanced(key, bank, scalars, *, batch_size, superbatch, **options):
  order_key, rule_key, shuffle_key = jax.random.split(key, 3)
  batches = _permuted(order_key, bank.shape[0], batch_size)
  steps = batches.shape[0]
  # As few superbatches as the limit allows, of sizes that differ by at most one batch.
  groups = -(-steps // superbatch)
  small, larger = divmod(steps, groups)
  keys = jax.random.split(rule_key, groups)

  def split(key_and_members, parts):
    one, members = key_and_members
    return members[_split(one, _checks.directions(bank[members]), parts, scalars, **options)]

  parts, start = [], 0
  for number, each, some_keys in ((larger, small + 1, keys[:larger]), (groups - larger, small, keys[larger:])):
    if number:
      members = batches[start:start + number * each].reshape(number, each * batch_size)
      parts.append(lax.map(partial(split, parts=each), (some_keys, members)).reshape(-1, batch_size))
      start += number * each
  # The first in turn choose a little better: steps come in random order, so that training sees no pattern.
  return jax.random.permutation(shuffle_key, jnp.concatenate(parts))


def _split(key, rows, parts, scalars, *, rule, candidates, objective, center, pools, policy, neighbors, queries, **_):
  """Splits a superbatch's unit rows into `parts` batches."""
  target, temperature = scalars["target"], scalars["temperature"]
  if rule == "log_det":
    return balanced.grow_log_det(rows, parts)
  if rule == "hard":
    return balanced.grow_hard(rows, parts)
  if rule == "submodular":
    return balanced.grow_submodular(rows, parts, queries=queries, temperature=temperature, ceiling=scalars["ceiling"])
  if rule == "spectral":
    return split_spectral(key, rows, parts, neighbors=neighbors, temperature=temperature)
  if rule == "pool":
    most = min(rows.shape[0] // parts, rows.shape[1])
    return balanced.split_pool(key, rows, parts, pools=pools,
                               rank=partial(effective_rank, kind="participation", center=center),
                               cost=partial(pool.pool_costs, policy=policy, target=target, most=most))
  greedy = dict(objective=objective, target=target, center=center)
  if candidates is None or candidates >= rows.shape[0]:
    return balanced.grow_greedy(rows, parts, **greedy)
  return balanced.grow_greedy_few(key, rows, parts, candidates=candidates, **greedy)


@partial(jax.jit, static_argnames=_OPTIONS)
def _ordered(key, bank, *, batch_size, rule, clusters, neighbors, skip, cluster_size, **_):
  """The epoch's examples in the rule's order, cut into batches; these come in random order."""
  order_key, rule_key, shuffle_key = jax.random.split(key, 3)
  batches = _permuted(order_key, bank.shape[0], batch_size)
  if batches.shape[0] == 1:
    return batches
  members = batches.ravel()
  rows = _checks.directions(bank[members])
  order = {"cluster": lambda: cluster_order(rule_key, rows, clusters),
           "gcbs": lambda: gcbs_order(rows, neighbors),
           "b3": lambda: b3_order(rule_key, rows, neighbors, skip, cluster_size)}[rule]()
  return jax.random.permutation(shuffle_key, members[order].reshape(-1, batch_size))
