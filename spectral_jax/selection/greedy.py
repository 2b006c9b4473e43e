"""Greedy-m: a batch built element by element, each the best of m candidates for the batch's effective rank."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

import jax
import jax.numpy as jnp

from spectral_jax._arrays import HIGHEST
from spectral_jax.selection import _checks, _moments, _walk

if TYPE_CHECKING:
  from typing import Literal

  from jaxtyping import Array, ArrayLike, Float, Int32, PRNGKeyArray

  from spectral_jax._types import Scalar
  from spectral_jax.selection._moments import Moments, Products


def greedy_batch(key: PRNGKeyArray, embeddings: Float[ArrayLike, "m d"], batch_size: int, *,
                 candidates: int | None = 64, objective: Literal["max", "min", "target"] = "max",
                 target: Scalar | None = None, center: bool = False) -> Int32[Array, " b"]:
  """Builds a batch greedily on the participation ratio (Greedy-m).

  `PR(S) = k^2 / F`, `F = sum_{i,j in S} (x_i . x_j)^2`. The first element is drawn uniformly. Each further one is the
  best of `candidates` drawn uniformly, without repeats, from those not yet taken:

      "max"      the smallest  q(x) = x^T C x,  C = sum_{S} x x^T    (the largest gain in effective rank)
      "min"      the largest q(x)
      "target"   the one whose resulting PR is nearest to  target * min(k, d)

  A step costs candidates x d^2 and nothing that grows with the bank; `candidates=None` looks at all that are left, at
  m x d a step. PR is not submodular: no ratio to the best possible batch is promised. To build the batches of many
  steps at once, `jax.vmap` over keys: one sequential sweep serves them all.

  Args:
    key: a JAX random key.
    embeddings: `(m, d)`, unitless; rows are normalized inside. The dtype is kept for the bank and raised to at least
      float32 for the rows looked at.
    batch_size: examples in the batch, at most m.
    candidates: examples looked at for each element, 64 as in the paper's Greedy-64; where fewer are left, all of them.
    objective: "max", "min" or "target".
    target: fraction in (0, 1] of the highest possible effective rank, for `objective="target"`; otherwise not used.
    center: take the batch's mean out first: the participation ratio of its covariance (from the third element on).

  Returns:
    `(batch_size,)` int32 indices into `embeddings`, in the order they were taken.

  Raises:
    ValueError: a batch larger than the bank, candidates < 1, a target outside (0, 1], rows that are not finite.

  Example:
    >>> import jax
    >>> from spectral_jax.selection import greedy_batch
    >>> bank = jax.random.normal(jax.random.key(0), (1000, 16))
    >>> keys = jax.random.split(jax.random.key(1), 5)
    >>> jax.vmap(lambda key: greedy_batch(key, bank, 32))(keys).shape
    (5, 32)

  Reference: arXiv 2510.05767 names the greedy builder; the statement above is this project's.
  """
  _checks.check_key(key)
  bank = _checks.check_bank(embeddings, batch_size)
  candidates = _checks.check_candidates(candidates)
  _checks.check_objective(objective, target)
  target = 1.0 if target is None else target
  build = _among_all if candidates is None else partial(_among_few, candidates=candidates)
  return build(key, bank, target, batch_size=batch_size, objective=objective, center=center)


@partial(jax.jit, static_argnames=("batch_size", "candidates", "objective", "center"))
def _among_few(key, bank, target, *, batch_size, candidates, objective, center):
  def costs(moments, rows):
    return _moments.cost(moments, _moments.products(moments, rows, center=center),
                         objective=objective, target=target, center=center)

  start = _moments.empty(bank.shape[1], jnp.promote_types(bank.dtype, jnp.float32))
  update = lambda moments, _, row: _moments.add(moments, row)
  return _walk.among_few(key, bank, batch_size, candidates, start, costs, update)


@partial(jax.jit, static_argnames=("batch_size", "objective", "center"))
def _among_all(key, bank, target, *, batch_size, objective, center):
  """`x^T C x` of every row is kept, and grows by `(x . new)^2`: m x d a step."""
  rows = _checks.directions(bank)

  def costs(state):
    quadratic, moments = state
    to = products_of_all(moments, rows, quadratic, center=center)
    return _moments.cost(moments, to, objective=objective, target=target, center=center)

  def update(state, _, best):
    quadratic, moments = state
    new = rows[best]
    return quadratic + jnp.dot(rows, new, precision=HIGHEST) ** 2, _moments.add(moments, new)

  start = (jnp.zeros((rows.shape[0],), rows.dtype), _moments.empty(rows.shape[1], rows.dtype))
  return _walk.among_all(key, rows, batch_size, start, costs, update)


def products_of_all(moments: Moments, rows: Float[Array, "n d"], quadratic: Float[Array, " n"], *,
                    center: bool) -> Products:
  """`Products` of all rows where `quadratic`, their `x^T C x`, is already known: n x d operations."""
  square = jnp.sum(rows * rows, axis=1)
  if not center:
    return _moments.Products(quadratic, jnp.zeros_like(square), jnp.zeros_like(square), square)
  image = jnp.dot(moments.second, moments.first, precision=HIGHEST)
  along, cross = jnp.dot(rows, jnp.stack([moments.first, image], axis=1), precision=HIGHEST).T
  return _moments.Products(quadratic, along, cross, square)

