"""The `fast` extra: JPEGs are decoded by simplejpeg and crops resized by cykooz-resizer, where both are installed.

Decoded pixels are Pillow's, bit for bit. Resized ones are at most one level off Pillow's, since the two round
differently, and do not depend on the processor's vector instructions.
"""

from __future__ import annotations

import functools
import importlib
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
  from typing import Any


@functools.cache
def libraries() -> tuple[Any, Any] | None:
  """simplejpeg and cykooz_resizer; None where one of them is missing, and Pillow does the work of both."""
  try:
    return importlib.import_module("simplejpeg"), importlib.import_module("cykooz_resizer")
  except ImportError:
    return None


def decode_jpeg(blob: bytes, channels: int) -> np.ndarray | None:
  """A JPEG as uint8 `(h, w, channels)`; None without the extra, and where the file is damaged.

  Pillow forgives some damage and has words for the rest, so such a file is its to decode.
  """
  if (found := libraries()) is None:
    return None
  try:
    return found[0].decode_jpeg(blob, colorspace="gray" if channels == 1 else "rgb")
  except ValueError:
    return None


def resize(image: Any, height: int, width: int, size: int) -> np.ndarray | None:
  """A Pillow image or uint8 array as an array `(size, size, c)`, bilinear, antialiased; None without the extra."""
  if (found := libraries()) is None:
    return None
  _, cykooz = found
  pixels = image.tobytes()
  kind = cykooz.PixelType.U8 if len(pixels) == height * width else cykooz.PixelType.U8x3
  resized = cykooz.ImageData(size, size, kind)
  # A resizer works for one thread at a time; to make one takes a microsecond.
  cykooz.Resizer().resize(cykooz.ImageData(width, height, kind, pixels), resized, _bilinear(cykooz))
  return np.frombuffer(resized.get_buffer(), np.uint8).reshape(size, size, -1)


@functools.cache
def _bilinear(cykooz):
  return cykooz.ResizeOptions(cykooz.ResizeAlg.convolution(cykooz.FilterType.bilinear))
