"""Frozen features of a whole split, by either way of reading it.

The features are the encoder's, before the projector: the projector is made to forget what the loss does not need.
"""

import jax
import jax.numpy as jnp
import numpy as np

from spectral_jax.training.mesh import over_data, replicated


def make_encoder(model, mesh):
  """Returns `encode(variables, uint8 images (b, h, w, c)) -> (features, projections)`, jitted over the mesh."""

  def encode(variables, images):
    return model.apply(variables, images.astype(jnp.float32) / 255, train=False)

  return jax.jit(encode, out_shardings=replicated(mesh))


def spread(size, limit=0):
  """Returns at most `limit` (0: all) indices below `size`, evenly spread: examples often come sorted by class.

  >>> print(spread(10, 4))
  [0 3 6 9]
  """
  if not limit or limit >= size:
    return np.arange(size, dtype=np.int32)
  return np.linspace(0, size - 1, limit).round().astype(np.int32)


def split_features(encode, variables, split, indices, *, batch_size, mesh):
  """Returns the features `(n, f)` and the projections `(n, p)` of a split's examples `indices` `(n,)`.

  A batch is rounded up to a multiple of the data axis; the last one repeats an image and the copies are cut off.
  """
  shards = mesh.shape["data"]
  batch_size = -(-min(batch_size, len(indices)) // shards) * shards
  outputs = [encode(variables, jax.device_put(pixels, over_data(mesh)))
             for pixels in read_batches(split, indices, batch_size)]
  features, projections = (jnp.concatenate(part)[:len(indices)] for part in zip(*outputs))
  return features, projections


def split_images(split, indices):
  """Returns the examples `indices` as uint8 `(n, h, w, c)`, as the encoder sees them: undistorted."""
  return np.concatenate(list(read_batches(split, indices, min(512, len(indices)))))[:len(indices)]


def split_pixels(split, indices, *, side=32):
  """Returns the examples `indices` as float32 rows in [0, 1]: the representation that costs nothing.

  Images larger than `side` pixels are averaged down to about that, or ImageNet's rows would have 150,528 entries.
  """
  factor = max(1, split.image_size // side)
  rows = []
  for images in read_batches(split, indices, min(512, len(indices))):
    if factor > 1:
      whole = images.shape[1] // factor * factor
      blocks = images[:, :whole, :whole].reshape(len(images), whole // factor, factor, whole // factor, factor, -1)
      images = np.round(blocks.mean(axis=(2, 4))).astype(np.uint8)
    rows.append(images.reshape(len(images), -1))
  return np.concatenate(rows)[:len(indices)].astype(np.float32) / 255


def read_batches(split, indices, batch_size):
  """Yields uint8 `(batch_size, h, w, c)`; the last batch is filled up with its last image."""
  indices = np.asarray(indices)
  steps = -(-len(indices) // batch_size)
  table = indices[np.minimum(np.arange(steps * batch_size), len(indices) - 1)].reshape(steps, batch_size)
  if split.resident:
    images = split.images()
    yield from (images[rows] for rows in table)
  else:
    batches = split.stream(table, image_size=split.image_size, seed=0, start_step=0, train=False, views=1)
    yield from (batch["images"][0] for batch in batches)
