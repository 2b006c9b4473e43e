"""Pool selection: of several random batches, the one whose effective rank is wanted."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

import jax
import jax.numpy as jnp

from spectral_jax._arrays import choice
from spectral_jax.selection import _checks
from spectral_jax.selection._draw import distinct
from spectral_jax.spectrum import effective_rank

if TYPE_CHECKING:
  from typing import Literal

  from jaxtyping import Array, ArrayLike, Float, Int32, PRNGKeyArray

  from spectral_jax._types import Scalar

POLICIES = ("P1", "P2", "P3")


def pool_batch(key: PRNGKeyArray, embeddings: Float[ArrayLike, "m d"], batch_size: int, *, pools: int = 16,
               policy: Literal["P1", "P2", "P3"] = "P3", target: Scalar | None = None,
               center: bool = False) -> Int32[Array, " b"]:
  """Draws `pools` random batches and keeps one by its participation ratio `PR = k^2 / sum_{i,j} (x_i . x_j)^2`.

      "P1"  the lowest      "P2"  the nearest to target * min(k, d)      "P3"  the highest

  Args:
    key: a JAX random key.
    embeddings: `(m, d)`, unitless; rows are normalized inside.
    batch_size: examples in the batch, at most m.
    pools: random batches to choose from; 16 is this project's choice, the gain grows like sqrt(log pools).
    policy: "P1", "P2" or "P3".
    target: fraction in (0, 1] of the highest possible effective rank, for "P2"; None means the median of the pools.
    center: take each batch's mean out first.

  Returns:
    `(batch_size,)` int32 indices into `embeddings`. A pool with fewer zero rows always goes before one with more.

  Raises:
    ValueError: a batch larger than the bank, an unknown policy, a target outside (0, 1], rows that are not finite.

  Example:
    >>> import jax
    >>> from spectral_jax.selection import pool_batch
    >>> bank = jax.random.normal(jax.random.key(0), (100, 8))
    >>> pool_batch(jax.random.key(1), bank, 4, policy="P1").shape
    (4,)

  Reference: arXiv 2510.05767 names the pool selector; the statement above is this project's.
  """
  _checks.check_key(key)
  bank = _checks.check_bank(embeddings, batch_size)
  _checks.count("pools", pools)
  choice("policy", policy, POLICIES)
  _checks.check_target(target)
  batches, ranks, empty = _pools(key, bank, batch_size, pools, center)
  costs = pool_costs(ranks, policy, target, min(batch_size, bank.shape[1]))
  return batches[jnp.argmin(jnp.where(empty == jnp.min(empty), costs, jnp.inf))]


@partial(jax.jit, static_argnums=(2, 3, 4))
def _pools(key, bank, batch_size, pools, center):
  """Random batches `(pools, batch_size)`, their ranks, and how many of their rows have no direction."""
  keys = jax.random.split(key, pools)
  batches = jax.vmap(lambda one: distinct(one, batch_size, bank.shape[0]))(keys)
  return batches, *jax.lax.map(lambda batch: _rank(bank[batch], center), batches)


def _rank(rows, center):
  rows = _checks.directions(rows)
  empty = jnp.sum(jnp.all(rows == 0, axis=1))
  return effective_rank(rows, kind="participation", center=center), empty


def pool_costs(ranks: Float[Array, " pools"], policy: str, target: Scalar | None, most: int) -> Float[Array, " pools"]:
  """The smaller, the better; `most` is the highest rank that a batch can have."""
  if policy == "P1":
    return ranks
  if policy == "P3":
    return -ranks
  return jnp.abs(ranks - (jnp.median(ranks) if target is None else target * most))
