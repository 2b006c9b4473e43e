"""The rule that every other is measured against: examples drawn uniformly."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

import jax

from spectral_jax.selection import _checks
from spectral_jax.selection._draw import distinct

if TYPE_CHECKING:
  from jaxtyping import Array, ArrayLike, Float, Int32, PRNGKeyArray


def random_batch(key: PRNGKeyArray, embeddings: Float[ArrayLike, "m d"], batch_size: int) -> Int32[Array, " b"]:
  """Draws a batch uniformly without repeats; the embeddings only say how many examples there are.

  Args:
    key: a JAX random key.
    embeddings: `(m, d)`, unitless; only `m` matters.
    batch_size: examples in the batch, at most m.

  Returns:
    `(batch_size,)` int32 indices into `embeddings`.

  Raises:
    ValueError: a batch larger than the bank, a wrong shape, rows that are not finite.

  Example:
    >>> import jax
    >>> from spectral_jax.selection import random_batch
    >>> bank = jax.random.normal(jax.random.key(0), (100, 8))
    >>> random_batch(jax.random.key(1), bank, 4).shape
    (4,)
  """
  _checks.check_key(key)
  bank = _checks.check_bank(embeddings, batch_size)
  return _draw(key, batch_size, bank.shape[0])


@partial(jax.jit, static_argnums=(1, 2))
def _draw(key, batch_size, size):
  return distinct(key, batch_size, size)
