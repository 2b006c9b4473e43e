"""Brings the examples of an index table to the devices, a little ahead of the step that needs them."""

from __future__ import annotations

import collections
import itertools
from typing import TYPE_CHECKING

import numpy as np

from spectral_jax.mesh import host_columns, over_data, place, place_columns

if TYPE_CHECKING:
  from collections.abc import Callable, Iterator, Sequence
  from typing import Any

  from jax.sharding import Mesh

  from spectral_jax.data.dataset import Split

AHEAD = 2


def make_feed(split: Split, mesh: Mesh, image_size: int, seed: int,
              crop_scale: Sequence[float] | None) -> Callable[[np.ndarray, int], Iterator[Any]]:
  """Returns `feed(table, first_step)`, which yields each row of `table` `(steps, batch_size)` as a batch on devices.

  Resident data send the indices alone; streamed data send the crops that belong to `first_step` and the steps after
  it. With several processes each decodes the images of its own devices alone.
  """
  rows, crops = over_data(mesh), over_data(mesh, axis=1)

  def batches(table, first_step):
    if split.resident:
      yield from ({"index": place(indices, rows)} for indices in table)
      return
    columns = host_columns(rows, table.shape[1])
    stream = split.stream(table[:, columns], image_size=image_size, seed=seed, start_step=first_step, train=True,
                          views=2, crop_scale=crop_scale)
    for indices, batch in zip(table, stream):
      images = batch["images"]
      shape = (*images.shape[:1], table.shape[1], *images.shape[2:])
      yield {"index": place(np.asarray(indices, np.int32), rows), "images": place_columns(images, crops, shape)}

  def feed(table, first_step):
    waiting = collections.deque()
    for batch in itertools.chain(batches(table, first_step), [None] * AHEAD):
      if batch is not None:
        waiting.append(batch)
      if waiting and (batch is None or len(waiting) > AHEAD):
        yield waiting.popleft()

  return feed
