"""Submodular batches: a few examples ask, and the rest of the batch are negatives that are hard for all of them."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

import jax
import jax.numpy as jnp

from spectral_jax._arrays import HIGHEST, positive
from spectral_jax.selection import _checks, _walk

if TYPE_CHECKING:
  from typing import Any

  from jaxtyping import Array, ArrayLike, Float, Int32, PRNGKeyArray

  from spectral_jax._types import Scalar


def submodular_batch(key: PRNGKeyArray, embeddings: Float[ArrayLike, "m d"], batch_size: int, *,
                     candidates: int | None = 64, queries: int | None = None, temperature: Scalar = 0.1,
                     ceiling: Scalar = 0.95) -> Int32[Array, " b"]:
  """Draws a few queries and adds the examples that raise the queries' InfoNCE loss most.

      f(S) = sum_{i in Q} log(1 + sum_{j in S, j != i} h_ij),   h_ij = exp((x_i . x_j - 1) / temperature)

  and h_ij = 0 where x_i . x_j > ceiling. It is the summed InfoNCE loss of the queries Q, drawn uniformly, against the
  batch S, their positives aligned: monotone and submodular, so that with `candidates=None` the greedy choice of the
  rest reaches 1 - 1/e of the best possible gain. The logarithm makes a second hard negative of one query worth less
  than the first of another.

  Args:
    key: a JAX random key; it draws the queries and the candidates.
    embeddings: `(m, d)`, unitless; rows are normalized inside.
    batch_size: examples in the batch, at most m.
    candidates: examples looked at for each element; where fewer are left, all. None looks at all that are left, at
      m x queries a step.
    queries: examples of the batch that ask, at most batch_size; None means an eighth of the batch, at least one, so
      that the batch holds seven negatives for each. With 1 and no ceiling this is `hard_batch`.
    temperature: of the loss, 0.1 as in `losses.info_nce`.
    ceiling: cosine above which an example is taken for a likely positive of the query rather than a negative; 0.95
      leaves out near duplicates alone. 2 leaves out nothing.

  Returns:
    `(batch_size,)` int32 indices into `embeddings`, the queries first, in the order they were taken.

  Raises:
    ValueError: a batch larger than the bank, candidates or queries < 1, more queries than the batch holds, a
      temperature that is not positive, rows that are not finite.

  Example:
    >>> import jax
    >>> from spectral_jax.selection import submodular_batch
    >>> bank = jax.random.normal(jax.random.key(0), (100, 8))
    >>> submodular_batch(jax.random.key(1), bank, 16, candidates=None).shape
    (16,)

  Reference: Dutta, Nagalapatti and Prabhu, "HOBIT: hardness optimized batch sampling for InfoNCE training", ICML 2026.
  Of it only the abstract could be read: a monotone submodular objective motivated by InfoNCE, hard yet
  non-contradictory negatives for each query, a greedy algorithm. The objective above is this project's.
  """
  _checks.check_key(key)
  bank = _checks.check_bank(embeddings, batch_size)
  candidates = _checks.check_candidates(candidates)
  queries = check_queries(queries, batch_size)
  return _submodular(key, bank, positive("temperature", temperature), check_ceiling(ceiling),
                     batch_size=batch_size, candidates=candidates, queries=queries)


def check_queries(queries: int | None, batch_size: int) -> int:
  """Returns the number of queries, by default an eighth of the batch; refuses more than the batch holds."""
  if queries is None:
    return max(1, batch_size // 8)
  if _checks.count("queries", queries) > batch_size:
    raise ValueError(f"queries must be at most batch_size={batch_size}, got {queries}; they are part of the batch")
  return queries


def check_ceiling(ceiling: Scalar) -> Scalar:
  """Returns the scalar `ceiling`, or raises naming it."""
  return _checks.scalar("ceiling", ceiling)


def hardness(cosines: Float[Array, "..."], temperature: Scalar, ceiling: Scalar) -> Float[Array, "..."]:
  """`h_ij` of cosines: `exp((c - 1) / temperature)`, 0 above the ceiling."""
  return jnp.where(cosines <= ceiling, jnp.exp((cosines - 1) / temperature), 0.0)


def gains(hard: Float[Array, "queries n"], loads: Float[Array, " queries"]) -> Float[Array, " n"]:
  """What each of n rows adds to f, `(n,)`: `hard` `(queries, n)`, `loads` `(queries,)` the queries' denominators."""
  return jnp.sum(jnp.log1p(hard / loads[:, None]), axis=0)


def take(state: Any, k: Any, best: Any, rows: Float[Array, "n d"], temperature: Scalar, ceiling: Scalar) -> Any:
  """The queries' hardness `(queries, n)` and denominators `(queries,)` once row `best` is element k of the batch.

  The first `queries` elements ask. Rows of the hardness that are not yet known are zero.
  """
  hard, loads = state
  column = hard[:, best]
  loads = (loads + column).at[k].add(jnp.sum(column), mode="drop")  # h is symmetric: the new query meets the others
  asked = hardness(jnp.dot(rows, rows[best], precision=HIGHEST), temperature, ceiling).at[best].set(0.0)
  return hard.at[k].set(asked, mode="drop"), loads


def empty(queries: int, rows: Float[Array, "n d"]) -> Any:
  """The state `take` begins with."""
  return jnp.zeros((queries, rows.shape[0]), rows.dtype), jnp.ones((queries,), rows.dtype)


@partial(jax.jit, static_argnames=("batch_size", "candidates", "queries"))
def _submodular(key, bank, temperature, ceiling, *, batch_size, candidates, queries):
  if candidates is None:
    # Many rows gain nothing, and tie: in random order, so that the first of them is a random one.
    order_key, key = jax.random.split(key)
    order = jax.random.permutation(order_key, bank.shape[0]).astype(jnp.int32)
    rows = _checks.directions(bank)[order]
    return order[_walk.among_all(
        key, rows, batch_size, empty(queries, rows), lambda state: -gains(*state),
        lambda state, k, best: take(state, k, best, rows, temperature, ceiling), seeds=queries)]

  def hard(asking, rows):
    active = jnp.any(asking != 0, axis=1, keepdims=True)
    return jnp.where(active, hardness(jnp.dot(asking, rows.T, precision=HIGHEST), temperature, ceiling), 0.0)

  def update(state, k, row):
    asking, loads = state
    column = hard(asking, row[None])[:, 0]
    loads = (loads + column).at[k].add(jnp.sum(column), mode="drop")
    return asking.at[k].set(row, mode="drop"), loads

  dtype = jnp.promote_types(bank.dtype, jnp.float32)
  start = (jnp.zeros((queries, bank.shape[1]), dtype), jnp.ones((queries,), dtype))
  return _walk.among_few(key, bank, batch_size, candidates, start,
                         lambda state, rows: -gains(hard(state[0], rows), state[1]), update, seeds=queries)
