"""Batches that a user chose: what an index table has to be."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
  from jaxtyping import ArrayLike, Int, Int32


def check_table(table: Int[ArrayLike, "epochs steps b"], size: int,
                batch_size: int) -> Int32[np.ndarray, "epochs steps b"]:
  """Returns a user's index table as int32 `(epochs, steps, batch_size)`, or raises saying what is wrong with it.

  Args:
    table: integers in 0..size-1, `(steps, batch_size)` for every epoch or `(epochs, steps, batch_size)`, epoch e then
      taking table `e % epochs`. Lists are taken too.
    size: examples in the training set.
    batch_size: examples in a batch.

  Returns:
    `(epochs, steps, batch_size)` int32, `steps = size // batch_size`, as a NumPy array.

  Raises:
    ValueError: another shape, an index outside 0..size-1, an example twice in one batch.
    TypeError: entries that are not integers.

  Example:
    >>> import numpy as np
    >>> from spectral_jax.selection import check_table
    >>> check_table(np.arange(100).reshape(10, 10), 100, 10).shape
    (1, 10, 10)
  """
  try:
    table = np.asarray(table)
  except ValueError as error:
    raise ValueError(f"the index table must be rectangular, {batch_size} indices in every batch and as many batches in "
                     "every epoch; its rows have different lengths") from error
  if not np.issubdtype(table.dtype, np.integer):
    raise TypeError(f"the index table must hold integers, got dtype {table.dtype}; convert it with "
                    "table.astype('int32')")
  steps = size // batch_size
  if table.ndim not in (2, 3) or table.shape[-2:] != (steps, batch_size) or not table.size:
    raise ValueError(f"the index table must have shape ({steps}, {batch_size}), or (epochs, {steps}, {batch_size}): "
                     f"{size} examples in batches of {batch_size}; got {table.shape}")
  low, high = int(table.min()), int(table.max())
  if low < 0 or high >= size:
    raise ValueError(f"the index table must hold indices from 0 to {size - 1}, got {low} to {high}; it may belong to "
                     "another data set")
  table = table.reshape(-1, steps, batch_size)
  ordered = np.sort(table, axis=2)
  twice = np.argwhere(ordered[:, :, 1:] == ordered[:, :, :-1])
  if len(twice):
    epoch, step, place = twice[0]
    raise ValueError(f"no batch of the index table may hold an example twice, but batch {step} of epoch {epoch} does: "
                     f"example {ordered[epoch, step, place]}")
  return table.astype(np.int32)
