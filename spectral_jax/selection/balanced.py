"""Batches that grow together: every example of a superbatch goes to exactly one of its batches.

Round k gives each batch in turn its k-th element, the one of its best gain among those that are left. A batch's gain
depends on that batch alone, so a round scores all batches at once and then lets them choose one after the other: a
clash goes to the batch whose turn comes first, and the next one takes the best that is left to it. Round k begins
with batch `k % batches`: were the first always the same, batches would end unequal.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

import jax
import jax.numpy as jnp
from jax import lax

from spectral_jax._arrays import HIGHEST
from spectral_jax.selection import _moments, log_det, submodular
from spectral_jax.selection._draw import distinct
from spectral_jax.selection._walk import first_best
from spectral_jax.selection.greedy import products_of_all

if TYPE_CHECKING:
  from collections.abc import Callable

  from jaxtyping import Array, Float, Int32, PRNGKeyArray

  from spectral_jax._types import Scalar


def grow_greedy(rows: Float[Array, "n d"], batches: int, *, objective: str, target: Scalar | None,
                center: bool) -> Int32[Array, "batches b"]:
  """Splits `(batches * size, d)` unit rows into batches greedily on the participation ratio; `(batches, size)` indices.

  Everything that is left is looked at: `x^T C x` of every row for every batch is kept, `batches * n` numbers, and a
  round costs `batches * n * d`.
  """
  start = (_empty(rows, batches), jnp.zeros((batches, rows.shape[0]), rows.dtype))

  def costs(state):
    moments, quadratic = state
    to = jax.vmap(partial(products_of_all, center=center), (0, None, 0))(moments, rows, quadratic)
    return _costs(moments, to, objective, target, center)

  def update(state, picks, _):
    moments, quadratic = state
    quadratic = quadratic + jnp.dot(rows[picks], rows.T, precision=HIGHEST) ** 2
    return jax.vmap(_moments.add)(moments, rows[picks]), quadratic

  return _grow(rows, batches, start, costs, update)


def grow_log_det(rows: Float[Array, "n d"], batches: int, *, ridge: Scalar = 1e-3) -> Int32[Array, "batches b"]:
  """Splits rows into batches greedily on their determinants; see `log_det_batch`."""
  gains, inverse = log_det.initial_gains(rows, ridge)
  start = (jnp.tile(gains, (batches, 1)), jnp.tile(inverse, (batches, 1, 1)))
  directed = gains > 0

  def update(state, picks, _):
    gains, inverse = state
    return jax.vmap(log_det.shrink, (0, 0, None, 0))(gains, inverse, rows, rows[picks])

  return _grow(rows, batches, start, lambda state: jnp.where(directed, -state[0], jnp.inf), update)


def grow_hard(rows: Float[Array, "n d"], batches: int) -> Int32[Array, "batches b"]:
  """Splits rows into batches around random seeds: each batch in turn takes what is nearest to its seed."""
  directed = jnp.any(rows != 0, axis=1)
  start = jnp.zeros((batches, rows.shape[0]), rows.dtype)

  def update(distances, picks, k):
    return jnp.where(k == 0, -jnp.dot(rows[picks], rows.T, precision=HIGHEST), distances)

  return _grow(rows, batches, start, lambda distances: jnp.where(directed, distances, jnp.inf), update)


def grow_submodular(rows: Float[Array, "n d"], batches: int, *, queries: int, temperature: Scalar,
                    ceiling: Scalar) -> Int32[Array, "batches b"]:
  """Splits rows into batches of queries and hard negatives for them; see `submodular_batch`. Looks at all that is left.

  The hardness of every row for every query is kept, `batches * queries * n` numbers.
  """
  directed = jnp.any(rows != 0, axis=1)
  start = jax.tree.map(lambda x: jnp.zeros((batches, *x.shape), x.dtype) + x, submodular.empty(queries, rows))

  def costs(state):
    return jnp.where(directed, -jax.vmap(submodular.gains)(*state), jnp.inf)

  def update(state, picks, k):
    return jax.vmap(lambda one, pick: submodular.take(one, k, pick, rows, temperature, ceiling))(state, picks)

  return _grow(rows, batches, start, costs, update, seeds=queries)


def _grow(rows, batches, start, costs, update, *, seeds=1):
  """The rounds: `costs(state)` is `(batches, n)`, `update(state, picks, k)` adds each batch's pick."""
  n = rows.shape[0]
  size = n // batches

  def round_of(k, carry):
    state, free, taken = carry
    cost = costs(state)
    # The rows come in random order, so the first ones are seeds drawn uniformly.
    cost = jnp.where((k < seeds) & jnp.isfinite(cost), jnp.arange(n, dtype=cost.dtype), cost)
    free, picks = _take_turns(cost, free, k)
    return update(state, picks, k), free, taken.at[k].set(picks)

  taken = jnp.zeros((size, batches), jnp.int32)
  return lax.fori_loop(0, size, round_of, (start, jnp.ones((n,), bool), taken))[2].T


def _take_turns(cost, free, k):
  """What stays free, and each batch's best free column of `cost` `(batches, n)`, in turn from batch `k % batches`."""
  def turn(free, row):
    pick = first_best(row, free)
    return free.at[pick].set(False), pick

  free, picks = lax.scan(turn, free, jnp.roll(cost, -k, axis=0))
  return free, jnp.roll(picks, k)


def grow_greedy_few(key: PRNGKeyArray, rows: Float[Array, "n d"], batches: int, *, candidates: int, objective: str,
                    target: Scalar | None, center: bool) -> Int32[Array, "batches b"]:
  """As `grow_greedy`, but each batch in turn looks at `candidates` of what is left (all, once fewer are left).

  The batches of a round look at one shared draw of `candidates + batches - 1`, so that also the last in turn has its
  number to choose from; a round costs `batches * that * d^2` and does not grow with the superbatch.
  """
  n = len(rows)
  size, most = n // batches, min(candidates + batches - 1, n)

  def round_of(k, carry):
    left, taken, moments = carry
    remaining = n - k * batches
    places = distinct(jax.random.fold_in(key, k), most, jnp.maximum(remaining, most))
    places = jnp.where(remaining > most, places, jnp.arange(most, dtype=jnp.int32))
    looked_at = rows[left[places]]
    to = jax.vmap(partial(_moments.products, center=center), (0, None))(moments, looked_at)
    cost = _costs(moments, to, objective, target, center)
    cost = jnp.where((k == 0) & jnp.isfinite(cost), left[places].astype(cost.dtype), cost)
    _, picks = _take_turns(cost, places < remaining, k)
    taken = taken.at[k].set(left[places[picks]])
    left = _remove(left, places[picks], remaining)
    return left, taken, jax.vmap(_moments.add)(moments, looked_at[picks])

  start = (jnp.arange(n, dtype=jnp.int32), jnp.zeros((size, batches), jnp.int32), _empty(rows, batches))
  return lax.fori_loop(0, size, round_of, start)[1].T


def _remove(left, places, remaining):
  """Moves the last entries into `places`, the last place first, so that no entry moved is one to be removed."""
  def one(carry, place):
    left, last = carry
    return (left.at[place].set(left[last]), last - 1), None

  return lax.scan(one, (left, remaining - 1), -jnp.sort(-places))[0][0]


def _empty(rows, batches):
  one = _moments.empty(rows.shape[1], rows.dtype)
  return jax.tree.map(lambda x: jnp.zeros((batches, *x.shape), x.dtype), one)


def _costs(moments, to, objective, target, center):
  return jax.vmap(partial(_moments.cost, objective=objective, target=target, center=center))(moments, to)


def split_pool(key: PRNGKeyArray, rows: Float[Array, "n d"], batches: int, *, rank: Callable[[Array], Array],
               pools: int, cost: Callable[[Array], Array]) -> Int32[Array, "batches b"]:
  """Of `pools` random splits, the one of best mean cost; `rank` maps `(size, d)` rows to a scalar."""
  n = rows.shape[0]
  orders = jax.vmap(lambda one: jax.random.permutation(one, n))(jax.random.split(key, pools))
  splits = orders.reshape(pools, batches, n // batches)
  ranks = lax.map(lambda split: lax.map(lambda batch: rank(rows[batch]), split), splits)
  return splits[jnp.argmin(jnp.mean(cost(ranks), axis=1))].astype(jnp.int32)
