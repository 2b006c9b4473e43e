"""Brings the examples of an index table to the device, a little ahead of the step that needs them."""

import collections
import itertools

import jax
import numpy as np

from spectral_jax.training.mesh import over_data

AHEAD = 2


def feed(table, first_step, run):
  """Yields the batch of each row of `table` `(steps, batch_size)` on the devices.

  Resident data send the indices alone; streamed data send the crops that belong to `first_step` and the steps after
  it.
  """
  if run.dataset.resident:
    batches = ({"index": rows} for rows in table)
  else:
    stream = run.dataset.train.stream(
        table, image_size=run.config.data.image_size, seed=run.config.seed, start_step=first_step, train=True, views=2,
        crop_scale=run.config.augment.crop_scale)
    batches = ({"index": np.asarray(b["index"], np.int32), "images": b["images"]} for b in stream)
  waiting = collections.deque()
  for batch in itertools.chain(batches, [None] * AHEAD):
    if batch is not None:
      waiting.append({name: jax.device_put(x, over_data(run.mesh, axis=x.ndim - 4 if x.ndim > 1 else 0))
                      for name, x in batch.items()})
    if waiting and (batch is None or len(waiting) > AHEAD):
      yield waiting.popleft()
