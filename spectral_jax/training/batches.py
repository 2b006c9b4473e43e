"""Which examples form which batch.

An epoch is a table of example indices, `(steps, batch_size)` int32. The tables of the present and of the next epoch
are part of a checkpoint: a selection rule may draw them from embeddings that a restarted run no longer has.
"""

from typing import NamedTuple

import numpy as np


class Tables(NamedTuple):
  epoch: int
  present: np.ndarray      # (steps, batch_size) int32
  following: np.ndarray    # the same for epoch + 1


def epoch_indices(seed, epoch, size, batch_size):
  """Returns `(size // batch_size, batch_size)` int32: a random permutation's full batches, the rest left out."""
  generator = np.random.Generator(np.random.Philox(np.random.SeedSequence([seed, epoch])))
  steps = size // batch_size
  return generator.permutation(size)[:steps * batch_size].reshape(steps, batch_size).astype(np.int32)


def first_tables(config, size):
  return Tables(0, *(epoch_indices(config.seed, epoch, size, config.batch_size) for epoch in (0, 1)))


def next_tables(config, size, tables):
  epoch = tables.epoch + 1
  return Tables(epoch, tables.following, epoch_indices(config.seed, epoch + 1, size, config.batch_size))
