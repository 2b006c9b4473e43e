"""Encoded images to uint8 arrays of one size, with Pillow, in threads; and what becomes of undecodable ones."""

import concurrent.futures
import io
import itertools
import os

import numpy as np

# Pillow lets go of the interpreter's lock while it decodes, so threads use all cores.
THREADS = min(32, (os.cpu_count() or 1) + 1)
# Images that a thread takes at a time.
PORTION = 64
# What Pillow raises at a broken file; its UnidentifiedImageError is an OSError.
BROKEN = (OSError, ValueError, SyntaxError, EOFError)


class Undecodable(ValueError):
  """An image that cannot be decoded; the message names it and says how to go on without it."""

  def __init__(self, name, reason):
    super().__init__(f"cannot decode {name} ({reason}); replace or delete it, or leave such images out and count them "
                     "with --config.data.on_undecodable=skip")


def pillow():
  """The Pillow module, or an error that names the extra."""
  try:
    from PIL import Image
  except ImportError as error:
    raise ImportError("images are decoded with Pillow; install the train extra: pip install 'spectral_jax[train]'"
                      ) from error
  return Image


def open_image(blob):
  """The Pillow image in `blob`, its header read and its pixels not; raises one of `BROKEN`."""
  return pillow().open(io.BytesIO(blob))


def channels_of(mode):
  """1 for Pillow's grey modes, 3 for all others."""
  return 1 if mode in ("1", "L", "I", "I;16", "F") else 3


def inspect(blob, *, whole=False):
  """`(height, width, channels)` from an image's header, or the exception that it raised.

  `whole=True` also decodes it, a JPEG at an eighth of its size, which still reads every byte.
  """
  try:
    image = open_image(blob)
    width, height = image.size
    channels = channels_of(image.mode)
    if whole:
      image.draft(None, (1, 1))
      image.load()
    return height, width, channels
  except BROKEN as error:
    return error


def decode(blob, size, channels):
  """One image as uint8 `(size, size, channels)`: its largest middle square, resized (bilinear) if need be."""
  return _decode(blob, size, channels)[0]


def _decode(blob, size, channels):
  """The decoded image, and how many channels it came with."""
  image = open_image(blob)
  found = channels_of(image.mode)
  return _fit(image.convert("L" if channels == 1 else "RGB"), size).reshape(size, size, channels), found


def resize(array, size):
  """A uint8 image `(h, w, c)` as `(size, size, c)`: its largest middle square, bilinear."""
  channels = array.shape[-1]
  image = pillow().fromarray(array[..., 0] if channels == 1 else array)
  return _fit(image, size).reshape(size, size, channels)


def _fit(image, size):
  if image.size != (size, size):
    side = min(image.size)
    left, top = (image.size[0] - side) // 2, (image.size[1] - side) // 2
    # Cut first: Pillow's own `box` lets pixels outside it into the filter.
    image = image.crop((left, top, left + side, top + side)).resize((size, size), pillow().Resampling.BILINEAR)
  return np.asarray(image)


def decode_all(blobs, describe, *, size, channels=None, on_undecodable="error"):
  """Decodes an iterable of encoded images, a few at a time so that only the decoded ones pile up.

  Args:
    blobs: iterable of bytes.
    describe: `describe(i)` names image i in an error.
    size: side in pixels.
    channels: 1 or 3; None: 1 if every image is grey, else 3.
    on_undecodable: "error", or "skip" to leave such images out.

  Returns:
    `(pixels (m, size, size, channels) uint8, kept (n,) bool)`.
  """
  depth = channels or 3
  images, kept, grey = [], [], channels is None

  def attempt(blobs):
    results = []
    for blob in blobs:
      try:
        results.append(_decode(blob, size, depth))
      except BROKEN as error:
        results.append(error)
    return results

  with concurrent.futures.ThreadPoolExecutor(THREADS) as pool:
    for chunk in _chunks(blobs, THREADS * PORTION):
      portions = pool.map(attempt, _chunks(chunk, PORTION))
      for result in itertools.chain.from_iterable(portions):
        failed = isinstance(result, Exception)
        if failed and on_undecodable == "error":
          raise Undecodable(describe(len(kept)), result) from result
        kept.append(not failed)
        if not failed:
          images.append(result[0])
          grey = grey and result[1] == 1
  depth = 1 if grey else depth
  pixels = np.empty((len(images), size, size, depth), np.uint8)
  for i, image in enumerate(images):
    # Of a grey image converted to RGB all three channels are the grey one.
    pixels[i] = image[..., :depth]
  return pixels, np.array(kept, bool)


def _chunks(items, size):
  chunk = []
  for item in items:
    chunk.append(item)
    if len(chunk) == size:
      yield chunk
      chunk = []
  if chunk:
    yield chunk
