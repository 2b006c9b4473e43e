"""Which examples form which batch.

An epoch is a table of example indices, `(steps, batch_size)` int32. The tables of the present and of the next epoch
are part of a checkpoint, and so is the bank of embeddings that a selection rule draws later ones from: a restarted run
could not make them again. `planner.py` decides them.
"""

from typing import NamedTuple

import jax
import numpy as np


class Tables(NamedTuple):
  epoch: int
  present: np.ndarray      # (steps, batch_size) int32
  following: np.ndarray    # the same for epoch + 1
  bank: jax.Array | None = None  # embeddings, where a rule selects by them


def epoch_indices(seed, epoch, size, batch_size):
  """Returns `(size // batch_size, batch_size)` int32: a random permutation's full batches, the rest left out."""
  generator = np.random.Generator(np.random.Philox(np.random.SeedSequence([seed, epoch])))
  steps = size // batch_size
  return generator.permutation(size)[:steps * batch_size].reshape(steps, batch_size).astype(np.int32)
