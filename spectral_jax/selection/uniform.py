"""The rule that every other is measured against: examples drawn uniformly."""

from functools import partial

import jax

from spectral_jax.selection import _checks
from spectral_jax.selection._draw import distinct


def random_batch(key, embeddings, batch_size):
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
  bank = _checks.check_bank(embeddings, batch_size)
  return _draw(key, batch_size, bank.shape[0])


@partial(jax.jit, static_argnums=(1, 2))
def _draw(key, batch_size, size):
  return distinct(key, batch_size, size)
