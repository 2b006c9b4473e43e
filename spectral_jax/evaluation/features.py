"""Frozen features of a whole split, by either way of reading it.

The features are the encoder's, before the projector: the projector is made to forget what the loss does not need.
"""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING

import jax
import jax.numpy as jnp
import numpy as np

from spectral_jax import preemption, progress
from spectral_jax.mesh import host_columns, local, over_data, place_columns

if TYPE_CHECKING:
  from collections.abc import Callable, Iterator
  from typing import Any

  from jax.sharding import Mesh
  from jaxtyping import Array, Float, PyTree

  from spectral_jax.data.dataset import Split


def spread(size: int, limit: int = 0) -> np.ndarray:
  """Returns at most `limit` (0: all) indices below `size`, evenly spread: examples often come sorted by class.

  >>> print(spread(10, 4))
  [0 3 6 9]
  """
  if not limit or limit >= size:
    return np.arange(size, dtype=np.int32)
  return np.linspace(0, size - 1, limit).round().astype(np.int32)


def split_features(encode: Callable[..., Any], variables: PyTree, split: Split, indices: np.ndarray, *, batch_size: int,
                   mesh: Mesh) -> tuple[Float[Array, "n f"], Float[Array, "n p"]]:
  """Returns the features `(n, f)` and the projections `(n, p)` of a split's examples `indices` `(n,)`, on one device.

  `encode(variables, uint8 images (b, h, w, c)) -> (features, projections)`. A batch is rounded up to a multiple
  of the data axis; the last one repeats an image and the copies are cut off. With several processes each reads the
  images of its own devices, and all get the features.
  """
  shards, sharding, indices = mesh.shape["data"], over_data(mesh), _some(indices)
  batch_size = -(-min(batch_size, len(indices)) // shards) * shards
  columns = host_columns(sharding, batch_size)
  outputs = []
  for pixels in read_batches(split, indices, batch_size, what="encoding", columns=columns):
    images = place_columns(pixels, sharding, (batch_size, *pixels.shape[1:]))
    outputs.append([local(part) for part in encode(variables, images)])
  return _joined(outputs, len(indices))


@functools.partial(jax.jit, static_argnums=1)
def _joined(outputs, count):
  return tuple(jnp.concatenate(part)[:count] for part in zip(*outputs))


def _some(indices):
  """The indices as an array, if there are any."""
  indices = np.asarray(indices)
  if not len(indices):
    raise ValueError("indices must name at least one example of the split, got none")
  return indices


def split_images(split: Split, indices: np.ndarray) -> np.ndarray:
  """Returns the examples `indices` as uint8 `(n, h, w, c)`, as the encoder sees them: undistorted."""
  return np.concatenate(list(read_batches(split, indices, min(512, len(indices)))))[:len(indices)]


def split_pixels(split: Split, indices: np.ndarray, *, side: int = 32) -> np.ndarray:
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


def read_batches(split: Split, indices: np.ndarray, batch_size: int, *, what: str = "reading",
                 columns: slice = slice(None)) -> Iterator[np.ndarray]:
  """Yields uint8 `(batch_size, h, w, c)`, or the part `columns` of each; the last batch is filled with its last image.

  Work of many batches shows its progress, and can be interrupted between them.

  Raises:
    ValueError: no indices.
  """
  indices = _some(indices)
  steps = -(-len(indices) // batch_size)
  table = indices[np.minimum(np.arange(steps * batch_size), len(indices) - 1)].reshape(steps, batch_size)[:, columns]
  if split.resident:
    images = split.images()
    batches = (images[rows] for rows in table)
  else:
    stream = split.stream(table, image_size=split.image_size, seed=0, start_step=0, train=False, views=1)
    batches = (part["images"][0] for part in stream)
  with progress.bar(what, steps, unit="batches") as bar:
    for batch in batches:
      preemption.check()
      yield batch
      bar.update()
