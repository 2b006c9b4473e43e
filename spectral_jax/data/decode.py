"""From bytes to pixels: the one decoder that resident and streamed data share, in threads.

Pillow does it, and, where the `fast` extra is installed, `spectral_jax.data.fast` does what it can do faster.

What an image looks like does not depend on how it is read:

- Its EXIF orientation is applied, so that a photograph stands upright. torchvision's `ImageFolder` and TensorFlow
  Datasets ignore the tag and would show it on its side.
- Transparent pixels are laid over white, the color of a page. The same two drop the transparency and show whatever
  color lies hidden under it, often black.
- 16-bit gray is scaled, `round(v / 257)`; torchvision cuts every value above 255 to 255.
- Palettes and CMYK become RGB; gray stays one channel where all images are gray. Of an animation, the first frame.
- JPEGs are decoded as libjpeg does by default (the accurate transform, smooth color); TensorFlow's default is faster
  and a few levels off.
- It is resized bilinearly with antialiasing, as on the device (`spectral_jax.augment.crop.cut`) and in torchvision.
"""

from __future__ import annotations

import concurrent.futures
import contextlib
import io
import struct
from typing import TYPE_CHECKING

import numpy as np

from spectral_jax._errors import ConfigError, RunError
from spectral_jax.data import fast
from spectral_jax.data.cache import THREADS
from spectral_jax.progress import bar

if TYPE_CHECKING:
  from collections.abc import Callable, Iterator, Sequence
  from types import ModuleType
  from typing import Any

  from spectral_jax.data.dataset import Encoded

# Images that a thread takes at a time.
PORTION = 64
# Pillow's other formats are not for photographs, and some of them start other programs.
FORMATS = ("JPEG", "PNG", "BMP", "GIF", "WEBP")
GRAY_MODES = ("1", "L", "LA", "I", "I;16", "I;16B", "I;16L", "I;16N")
ORIENTATION = 0x0112
LYING = (5, 6, 7, 8)   # the orientations whose width is shown as height
# Bytes that almost every image's header fits into.
HEAD = 2**15


class Undecodable(ConfigError):
  """An image that cannot be decoded; the message names it and says how to go on without it."""

  def __init__(self, name, reason):
    if type(reason).__name__ == "UnidentifiedImageError":  # whose text has the address of a buffer
      reason = f"cannot identify the format; known are {', '.join(FORMATS)}"
    super().__init__(f"cannot decode {name} ({reason}); replace or delete it, or leave such images out and count them "
                     "with --config.data.on_undecodable=skip")


def pillow() -> ModuleType:
  """The Pillow module, or an error that names the extra."""
  try:
    from PIL import Image
  except ImportError as error:
    raise ImportError("images are decoded with Pillow; install the train extra: pip install 'spectral_jax[train]'"
                      ) from error
  return Image


def broken() -> tuple[type[Exception], ...]:
  """What Pillow raises at a file that is broken or too large; its UnidentifiedImageError is an OSError."""
  return OSError, ValueError, SyntaxError, EOFError, struct.error, pillow().DecompressionBombError


def measure(blob: bytes | Callable[[int | None], bytes], *, whole: bool = False) -> tuple[int, int, int] | Exception:
  """`(height, width, channels)` of an encoded image as `decode` shows it, from its header alone.

  Args:
    blob: bytes of the image, or a function of a number n that returns the first n of them (None: all).
    whole: also decode it, a JPEG at an eighth of its size, which still reads every byte.

  Returns:
    Three integers, or the exception that Pillow raised.
  """
  read = blob if callable(blob) else lambda n: blob[:n]
  try:
    try:
      image = _open(read(None if whole else HEAD))
    except broken():
      if whole:
        raise
      image = _open(read(None))
    width, height = image.size
    channels, lying = channels_of(image), _turn(image) in LYING
    if whole:
      image.draft(None, (1, 1))
      image.load()
    return (width, height, channels) if lying else (height, width, channels)
  except broken() as error:
    return error


def channels_of(image: Any) -> int:
  """1 for a gray Pillow image, 3 for all others."""
  return 1 if image.mode in GRAY_MODES else 3


def decode(blob: bytes, channels: int) -> Any:
  """The image in `blob`, upright, opaque and of 8 bits, for `extent`, `square` and `crop`.

  A Pillow image, "L" for 1 channel and "RGB" for 3, or an array `(h, w, c)`: of most JPEGs, with the `fast` extra.
  """
  return _plain(_open(blob), blob, channels)


def extent(image: Any) -> tuple[int, int]:
  """`(height, width)` of what `decode` returns."""
  return image.shape[:2] if isinstance(image, np.ndarray) else image.size[::-1]


def square(image: Any, size: int) -> np.ndarray:
  """An image's largest middle square as uint8 `(size, size, c)`."""
  height, width = extent(image)
  side = min(width, height)
  return crop(image, ((height - side) // 2, (width - side) // 2, side, side), size)


def crop(image: Any, box: Sequence[int], size: int) -> np.ndarray:
  """The part `box` (top, left, height, width) of an image as uint8 `(size, size, c)`, bilinear, antialiased."""
  top, left, height, width = box
  # Cut first: the resizers' own boxes let pixels outside them into the filter.
  if isinstance(image, np.ndarray):
    image = image[top:top + height, left:left + width]
  elif (top, left, height, width) != (0, 0, *extent(image)):
    image = image.crop((left, top, left + width, top + height))
  if (height, width) != (size, size):
    if (pixels := fast.resize(image, height, width, size)) is not None:
      return pixels
    image = image.resize((size, size), pillow().Resampling.BILINEAR)
  return np.asarray(image).reshape(size, size, -1)


def resize(array: np.ndarray, size: int) -> np.ndarray:
  """A uint8 image `(h, w, c)` as `(size, size, c)`: its largest middle square."""
  return square(pillow().fromarray(array[..., 0] if array.shape[-1] == 1 else array), size)


@contextlib.contextmanager
def reading(name: str) -> Iterator[None]:
  """Turns what the system says while `name` is read into a RunError that names it."""
  try:
    yield
  except FileNotFoundError as error:
    raise RunError(f"{name} is gone: it was there when the data set was opened. Put it back, or start again without it"
                   ) from error
  except OSError as error:
    raise RunError(f"cannot read {name}: {error.strerror or error}. Check the disk and the permissions, then start "
                   "again") from error


def read_one(encoded: Encoded, i: int) -> bytes:
  """The bytes of image i; RunError if they cannot be read any more."""
  with reading(encoded.describe(i)):
    return encoded.read([i])[0]


def decode_all(encoded: Encoded, count: int, *, size: int, channels: int | None = None,
               on_undecodable: str = "error") -> tuple[Any, Any]:
  """Decodes the images 0 to `count - 1` of `encoded`, in threads.

  Args:
    encoded: an `Encoded`.
    count: how many images it has.
    size: side in pixels; of each image the largest middle square is shown.
    channels: 1 or 3; None: 1 if every image is gray, else 3.
    on_undecodable: "error", or "skip" to leave such images out.

  Returns:
    `(pixels (m, size, size, channels) uint8, kept (count,) bool)`.
  """
  pixels = np.empty((count, size, size, channels or 3), np.uint8)
  kept, gray = np.ones(count, bool), np.ones(count, bool)

  def attempt(start):
    for i in range(start, min(start + PORTION, count)):
      blob = read_one(encoded, i)
      try:
        image = _open(blob)
        gray[i] = channels_of(image) == 1
        pixels[i] = square(_plain(image, blob, pixels.shape[-1]), size)
      except broken() as error:
        if on_undecodable == "error":
          raise Undecodable(encoded.describe(i), error) from error
        kept[i] = False
    return min(start + PORTION, count) - start

  pool = concurrent.futures.ThreadPoolExecutor(THREADS, thread_name_prefix="decode")
  try:
    with bar("decoding", count) as progress:
      for done in pool.map(attempt, range(0, count, PORTION)):
        progress.update(done)
  finally:
    pool.shutdown(cancel_futures=True)
  # Of a gray image converted to RGB all three channels are the gray one.
  depth = channels or (1 if gray[kept].all() else 3)
  if depth < pixels.shape[-1]:
    pixels = np.ascontiguousarray(pixels[..., :depth])
  return pixels if kept.all() else pixels[kept], kept


def _open(blob):
  """The Pillow image in `blob`, its header read and its pixels not; raises one of `broken()`."""
  image = pillow().open(io.BytesIO(blob), formats=FORMATS)
  if min(image.size) < 1:
    raise ValueError("it has no pixels")
  return image


def _plain(image, blob, channels):
  turn = _turn(image)
  mode = "L" if channels == 1 else "RGB"
  # What must be turned, or converted otherwise than from gray to color, is left to Pillow.
  plain = image.format == "JPEG" and image.mode in ("L", mode) and turn == 1
  if plain and (array := fast.decode_jpeg(blob, channels)) is not None:
    return array
  image.load()
  if image.mode.startswith("I"):
    # Scaled by hand: Pillow's own conversion cuts off. (v + 128) // 257 is round(v / 257).
    values = np.asarray(image).astype(np.int64).clip(0, 65535)
    image = pillow().fromarray(((values + 128) // 257).astype(np.uint8))
  elif image.mode in ("LA", "RGBA", "PA") or "transparency" in image.info:
    image = image.convert("RGBA")
    page = pillow().new("RGBA", image.size, "white")
    image = pillow().alpha_composite(page, image).convert("RGB")
  if image.mode != mode:  # Pillow copies where there is nothing to convert
    image = image.convert(mode)
  return image if turn == 1 else image.transpose(_transposes()[turn])


def _turn(image):
  """The EXIF orientation in an image's header, 1 to 8; 1, upright, where there is none or it is damaged."""
  if not (stored := image.info.get("exif")):
    return 1
  exif = pillow().Exif()
  try:
    exif.load(stored)
    turn = exif.get(ORIENTATION, 1)
  except broken():
    return 1
  return turn if turn in range(1, 9) else 1


def _transposes():
  how = pillow().Transpose
  return {2: how.FLIP_LEFT_RIGHT, 3: how.ROTATE_180, 4: how.FLIP_TOP_BOTTOM, 5: how.TRANSPOSE, 6: how.ROTATE_270,
          7: how.TRANSVERSE, 8: how.ROTATE_90}
