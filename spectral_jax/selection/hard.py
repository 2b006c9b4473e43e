"""Hard batches: examples that resemble each other, so that negatives are hard to tell from positives."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

import jax
import jax.numpy as jnp
from jax import lax

from spectral_jax._arrays import HIGHEST
from spectral_jax.selection import _checks

if TYPE_CHECKING:
  from jaxtyping import Array, ArrayLike, Float, Int32, PRNGKeyArray


def hard_batch(key: PRNGKeyArray, embeddings: Float[ArrayLike, "m d"], batch_size: int) -> Int32[Array, " b"]:
  """Takes a random example and its nearest neighbors by cosine.

  `S = {seed} + the batch_size - 1 rows of largest x_i . x_seed`. Most published batch selection prefers such batches;
  it is here so that comparisons with diverse batches are fair.

  Args:
    key: a JAX random key; it draws the seed.
    embeddings: `(m, d)`, unitless; rows are normalized inside.
    batch_size: examples in the batch, at most m.

  Returns:
    `(batch_size,)` int32 indices into `embeddings`, the seed first, then by falling similarity.

  Raises:
    ValueError: a batch larger than the bank, rows that are not finite.

  Example:
    >>> import jax
    >>> from spectral_jax.selection import hard_batch
    >>> bank = jax.random.normal(jax.random.key(0), (100, 8))
    >>> hard_batch(jax.random.key(1), bank, 4).shape
    (4,)
  """
  _checks.check_key(key)
  return _nearest(key, _checks.check_bank(embeddings, batch_size), batch_size)


@partial(jax.jit, static_argnums=2)
def _nearest(key, bank, batch_size):
  rows = _checks.directions(bank)
  directed = jnp.any(rows != 0, axis=1)
  seed = jnp.argmax(jnp.where(directed, jax.random.uniform(key, directed.shape), -1.0))
  similarity = jnp.where(directed, jnp.dot(rows, rows[seed], precision=HIGHEST), -2.0)
  # Above every cosine, also where rounding makes a duplicate's larger than the seed's own.
  similarity = similarity.at[seed].set(2.0)
  return lax.top_k(similarity, batch_size)[1].astype(jnp.int32)
