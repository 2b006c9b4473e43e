"""Streaming: encoded images read by index, decoded and cropped by tf.data in one go, ahead of the step that needs them.

The caller decides which examples a step has. Which part of an image a view shows depends on (seed, step, index, view)
alone, so a run that starts again at any step sees the same crops.
"""

import collections
import concurrent.futures

import numpy as np

from spectral_jax.augment.crop import DRAWS, box
from spectral_jax.data.decode import Undecodable
from spectral_jax.data.tensorflow import import_tensorflow


def stream(split, index_batches, *, image_size=None, seed=0, start_step=0, train=True, views=2, crop_scale=(0.08, 1.0),
           prefetch=2):
  """Batches of the given examples, in the given order.

  A view is a random resized crop (`train`) or the largest middle square, resized bilinearly. Squares are antialiased;
  crops are where they shrink more than twofold, below which bilinear interpolation skips no pixel and takes a quarter
  of the time.

  Args:
    split: a split with `encoded` images.
    index_batches: `(steps, b)` integers, or rows of which only the last may be shorter; row t belongs to step
      `start_step + t`. A process of several passes its own columns (`host_columns`).
    image_size: side of the crops in pixels; None: the split's.
    seed, start_step: with index and view they fix the crops.
    train: False for whole images, all views alike.
    views: crops of each image; the image is read once for all of them.
    crop_scale: `(lo, hi)`, a crop's share of the area (SimCLR's for ImageNet); None: whole images.
    prefetch: finished batches kept ready.

  Returns:
    An iterator of dictionaries: `images` uint8 `(views, b, image_size, image_size, c)`, `labels` and `index` int32
    `(b,)`.

  Raises:
    ImportError: without TensorFlow.
    ValueError: on an index outside the split, or a split that is not encoded.
    Undecodable: naming the first image that cannot be decoded.
  """
  tf = import_tensorflow("streaming images")
  if split.encoded is None:
    raise ValueError("this split is resident, with nothing to stream; open the data set with config.data.path='stream'")
  rows = [np.asarray(row, np.int32) for row in index_batches]
  _check_rows(rows, split.size)
  size = image_size or split.image_size
  scale = tuple(crop_scale) if train and crop_scale else None

  def boxes(step, row):
    heights, widths = split.encoded.sizes[row].T
    if scale is None:
      return np.repeat(_middle(heights, widths)[:, None], views, axis=1)
    uniforms = uniform_draws(seed, step, row, views)
    return box(uniforms, heights[:, None], widths[:, None], scale, xp=np).astype(np.int32)

  def elements():
    for t, blobs in _read_ahead(split.encoded.read, rows):
      yield np.array(blobs, object), boxes(start_step + t, rows[t])

  crop = _cropper(tf, size, split.channels, smooth=scale is None)
  batches = tf.data.Dataset.from_generator(elements, output_signature=(
      tf.TensorSpec((None,), tf.string), tf.TensorSpec((None, views, 4), tf.int32)))
  batches = batches.unbatch().map(crop, num_parallel_calls=tf.data.AUTOTUNE, deterministic=True)
  batches = batches.batch(max((len(row) for row in rows), default=1))
  batches = batches.map(lambda images: tf.transpose(images, (1, 0, 2, 3, 4)), num_parallel_calls=1).prefetch(prefetch)
  return _with_labels(tf, split, rows, batches, crop)


def host_columns(index_batches, process_index, process_count):
  """One process's share of each batch: a contiguous block of columns, as a mesh over the processes lays them out.

  >>> host_columns(np.arange(8).reshape(2, 4), 1, 2).tolist()
  [[2, 3], [6, 7]]
  """
  index_batches = np.asarray(index_batches)
  width, rest = divmod(index_batches.shape[1], process_count)
  if rest:
    raise ValueError(f"a batch of {index_batches.shape[1]} cannot be shared evenly by {process_count} processes; "
                     f"make config.batch_size a multiple of {process_count}")
  return index_batches[:, process_index * width:(process_index + 1) * width]


def uniform_draws(seed, step, indices, views):
  """`(b, views, DRAWS)` float32 in [0, 1), each a hash of (seed, step, index, view, place) by SplitMix64.

  A counter and a hash (Steele et al. 2014) where NumPy's generators would have to be made anew for every image.
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
    if row.ndim != 1 or len(row) != len(rows[0]) and not (t == len(rows) - 1 and 0 < len(row) < len(rows[0])):
      raise ValueError("index_batches must be rows of one length, the last perhaps shorter; "
                       f"row {t} has shape {row.shape} and the first {rows[0].shape}")
    if row.size and not 0 <= row.min() <= row.max() < size:
      raise ValueError(f"index_batches must hold indices from 0 to {size - 1}, got {row.min()} to {row.max()} "
                       f"in row {t}")


def _middle(heights, widths):
  side = np.minimum(heights, widths)
  return np.stack([(heights - side) // 2, (widths - side) // 2, side, side], axis=-1)


def _read_ahead(read, rows, ahead=2):
  """Reads the bytes of coming rows while earlier ones are decoded."""
  with concurrent.futures.ThreadPoolExecutor(ahead) as pool:
    waiting = collections.deque()
    for t in range(len(rows) + ahead):
      if t < len(rows):
        waiting.append((t, pool.submit(read, rows[t])))
      if t >= ahead:
        t, future = waiting.popleft()
        yield t, future.result()


def _cropper(tf, size, channels, *, smooth):
  # The accurate transform is Pillow's: both paths then decode a JPEG to the same pixels.
  accurate = dict(channels=channels, dct_method="INTEGER_ACCURATE")

  def resize(image, place):
    by = lambda antialias: tf.image.resize(image, (size, size), method="bilinear", antialias=antialias)
    image = by(True) if smooth else tf.cond(tf.reduce_max(place[2:]) > 2 * size, lambda: by(True), lambda: by(False))
    return tf.cast(tf.clip_by_value(tf.round(image), 0, 255), tf.uint8)

  def from_jpeg(blob, around):
    return tf.image.decode_and_crop_jpeg(blob, around, **accurate)

  def from_other(blob, around):
    image = tf.io.decode_image(blob, channels=channels, expand_animations=False)
    image.set_shape((None, None, channels))
    return tf.image.crop_to_bounding_box(image, *tf.unstack(around))

  def crop(blob, boxes):
    # Decoded once for all views: the rectangle around their boxes, which are then cut from it.
    corner = tf.reduce_min(boxes[:, :2], axis=0)
    around = tf.concat([corner, tf.reduce_max(boxes[:, :2] + boxes[:, 2:], axis=0) - corner], axis=0)
    image = tf.cond(tf.io.is_jpeg(blob), lambda: from_jpeg(blob, around), lambda: from_other(blob, around))
    places = tf.concat([boxes[:, :2] - corner, boxes[:, 2:]], axis=1)
    images = [resize(tf.image.crop_to_bounding_box(image, *tf.unstack(place)), place) for place in tf.unstack(places)]
    return tf.ensure_shape(tf.stack(images), (boxes.shape[0], size, size, channels))

  return crop


def _with_labels(tf, split, rows, batches, crop):
  done = 0
  try:
    for row, images in zip(rows, batches.as_numpy_iterator()):
      yield {"images": images, "labels": split.labels[row], "index": row}
      done += 1
  except tf.errors.InvalidArgumentError:
    # tf.data does not say which image it was: try those of the failing batch one by one.
    for index in rows[done]:
      height, width = split.encoded.sizes[index]
      try:
        crop(tf.constant(split.encoded.read([index])[0]), tf.constant([[0, 0, height, width]]))
      except tf.errors.InvalidArgumentError as error:
        raise Undecodable(split.encoded.describe(index), error.message) from error
    raise
