"""Streaming: encoded images read by index, decoded and cropped in threads, ahead of the step that needs them.

The caller decides which examples a step has. Which part of an image a view shows depends on (seed, step, index, view)
alone, so a run that starts again at any step, on any number of hosts, sees the same crops.
"""

from __future__ import annotations

import collections
import concurrent.futures
from typing import TYPE_CHECKING

import numpy as np

from spectral_jax._errors import RunError
from spectral_jax.augment.crop import DRAWS, box
from spectral_jax.data.cache import THREADS
from spectral_jax.data.decode import Undecodable, broken, crop, decode, extent, read_one

if TYPE_CHECKING:
  from collections.abc import Iterable, Iterator
  from typing import Any

  from jaxtyping import Float

  from spectral_jax.data.dataset import Split

# Images that a thread takes at a time: few, so that a small batch keeps all cores busy.
PORTION = 4


def stream(split: Split, index_batches: Iterable[np.ndarray], *, columns: slice | None = None,
           image_size: int | None = None, seed: int = 0, start_step: int = 0, train: bool = True, views: int = 2,
           crop_scale: tuple[float, float] = (0.08, 1.0), prefetch: int = 2) -> Iterator[Any]:
  """Batches of the given examples, in the given order.

  A view is a random resized crop (`train`) or the largest middle square, resized bilinearly with antialiasing: the
  pixels that the resident path has, to rounding.

  Args:
    split: a split with `encoded` images.
    index_batches: `(steps, b)` integers, or rows of which only the last may be shorter; row t belongs to step
      `start_step + t`.
    columns: a slice, the columns of each row that are wanted; None: all. Each of several hosts passes the same table
      and its own columns (`spectral_jax.mesh.host_columns`), and decodes those alone.
    image_size: side of the crops in pixels; None: the split's.
    seed, start_step: with index and view they fix the crops.
    train: False for whole images, all views alike.
    views: crops of each image; the image is read and decoded once for all of them.
    crop_scale: `(lo, hi)`, a crop's share of the area (SimCLR's for ImageNet); None: whole images.
    prefetch: batches that are made while the caller uses one.

  Returns:
    An iterator of dictionaries: `images` uint8 `(views, b, image_size, image_size, c)`, `labels` and `index` int32
    `(b,)`; with `columns`, b is how many there are.

  Raises:
    ImportError: without Pillow.
    ValueError: on an index outside the split, or a split that is not encoded.
    Undecodable: naming an image that cannot be decoded, when its batch comes.
    RunError: naming an image that is gone or cannot be read.
  """
  encoded = split.encoded
  if encoded is None:
    raise ValueError("this split is resident, with nothing to stream; open the data set with config.data.path='stream'")
  rows = [np.asarray(row, np.int32) for row in index_batches]
  _check_rows(rows, split.size)
  size = image_size or split.image_size
  scale = (crop_scale[0], crop_scale[1]) if train and crop_scale else None
  rows = [row[columns or slice(None)] for row in rows]

  def boxes(step, row):
    heights, widths = encoded.sizes[row].T
    if scale is None:
      return np.repeat(_middle(heights, widths)[:, None], views, axis=1)
    uniforms = uniform_draws(seed, step, row, views)
    return box(uniforms, heights[:, None], widths[:, None], scale, xp=np).astype(np.int32)

  def fill(images, places, row, start):
    for i in range(start, min(start + PORTION, len(row))):
      blob = read_one(encoded, row[i])
      try:
        whole = decode(blob, split.channels)
      except broken() as error:
        raise Undecodable(encoded.describe(row[i]), error) from error
      _check_size(whole, encoded, row[i])
      for view, place in enumerate(places[i].tolist()):
        images[view, i] = crop(whole, place, size)

  def begin(pool, t):
    images = np.empty((views, len(rows[t]), size, size, split.channels), np.uint8)
    places = boxes(start_step + t, rows[t])
    work = [pool.submit(fill, images, places, rows[t], start) for start in range(0, len(rows[t]), PORTION)]
    return {"images": images, "labels": split.labels[rows[t]], "index": rows[t]}, work

  return _in_order(begin, len(rows), prefetch)


def _in_order(begin, steps, prefetch):
  pool = concurrent.futures.ThreadPoolExecutor(THREADS, thread_name_prefix="stream")
  waiting = collections.deque()
  try:
    for t in range(steps + prefetch):
      if t < steps:
        waiting.append(begin(pool, t))
      if t >= prefetch:
        batch, work = waiting.popleft()
        for part in work:
          part.result()
        yield batch
  finally:
    # Also where the caller stops early: what has not begun need not be done.
    pool.shutdown(wait=False, cancel_futures=True)


def uniform_draws(seed: int, step: int, indices: np.ndarray, views: int) -> Float[np.ndarray, "b views draws"]:
  """`(b, views, DRAWS)` float32 in [0, 1), each a hash of (seed, step, index, view, place) by SplitMix64.

  A counter and a hash (Steele et al. 2014) where NumPy's generators would have to be made for every image.
  """
  state = _mix(_mix(np.uint64(seed % 2**64), np.uint64(0)), np.uint64(step))
  state = _mix(state, np.asarray(indices).astype(np.uint64))
  state = _mix(state[:, None], np.arange(views, dtype=np.uint64))
  state = _mix(state[..., None], np.arange(DRAWS, dtype=np.uint64))
  return (state >> np.uint64(40)).astype(np.float32) * np.float32(2**-24)


def _mix(state, value):
  with np.errstate(over="ignore"):
    z = (state ^ value * np.uint64(0xD1342543DE82EF95)) + np.uint64(0x9E3779B97F4A7C15)
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return z ^ (z >> np.uint64(31))


def _check_rows(rows, size):
  for t, row in enumerate(rows):
    if row.ndim != 1 or (len(row) != len(rows[0]) and not (t == len(rows) - 1 and 0 < len(row) < len(rows[0]))):
      raise ValueError("index_batches must be rows of one length, the last perhaps shorter; "
                       f"row {t} has shape {row.shape} and the first {rows[0].shape}")
    if row.size and not 0 <= row.min() <= row.max() < size:
      raise ValueError(f"index_batches must hold indices from 0 to {size - 1}, got {row.min()} to {row.max()} "
                       f"in row {t}")


def _check_size(image, encoded, index):
  """Stops at an image that is not the one whose size the boxes were computed from."""
  if (now := extent(image)) != tuple(encoded.sizes[index]):
    height, width = encoded.sizes[index]
    raise RunError(f"{encoded.describe(index)} has changed: it was {width} x {height} pixels when the data set was "
                   f"indexed and is {now[1]} x {now[0]} now. Put the old one back, or start again")


def _middle(heights, widths):
  side = np.minimum(heights, widths)
  return np.stack([(heights - side) // 2, (widths - side) // 2, side, side], axis=-1)
