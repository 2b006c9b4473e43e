"""One description of a data set, read in two ways: resident (decoded once) or streamed (decoded in every step)."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import numpy as np

from spectral_jax._errors import ConfigError

if TYPE_CHECKING:
  from collections.abc import Iterable, Iterator
  from typing import Any

  from spectral_jax._types import Config

# Decoded bytes up to which `path="auto"` stays resident; CIFAR takes 184 MB, ImageNet-100 at 224 pixels 19 GB.
RESIDENT_BYTES = 2 * 1024**3


@dataclasses.dataclass(frozen=True)
class Encoded:
  """Images still encoded: `read(indices)` returns their bytes, `sizes` `(n, 2)` int32 are upright heights and widths.

  `describe(i)` names image i in an error.
  """
  read: Callable[[np.ndarray | Sequence[int]], Sequence[bytes]]
  sizes: np.ndarray
  channels: int
  describe: Callable[[int], str]

  def take(self, part: np.ndarray) -> Encoded:
    """The images `part`, an array of indices."""
    return Encoded(lambda indices: self.read(part[indices]), self.sizes[part], self.channels,
                   lambda i: self.describe(part[i]))


@dataclasses.dataclass(frozen=True)
class Split:
  """The training or the test part: `labels` `(n,)` int32, and either `pixels` (resident) or `encoded` (streamed).

  `skipped` lists the undecodable files that were left out, which happens only where the config allows it.
  """
  labels: np.ndarray
  image_size: int
  pixels: np.ndarray | None = None
  encoded: Encoded | None = None
  skipped: tuple[str, ...] = ()

  @property
  def size(self) -> int:
    return len(self.labels)

  @property
  def channels(self) -> int:
    held: Any = self.pixels if self.encoded is None else self.encoded
    return held.shape[-1] if self.encoded is None else held.channels

  @property
  def resident(self) -> bool:
    return self.pixels is not None

  def images(self) -> np.ndarray:
    """All images, uint8 `(n, image_size, image_size, c)`; a streamed split is decoded on each call."""
    if self.pixels is not None:
      return self.pixels
    from spectral_jax.data.decode import decode_all
    encoded: Any = self.encoded
    return decode_all(encoded, self.size, size=self.image_size, channels=self.channels)[0]

  def take(self, part: np.ndarray) -> Split:
    """The examples `part`, an array of indices, as a split."""
    pixels = None if self.pixels is None else self.pixels[part]
    encoded = None if self.encoded is None else self.encoded.take(part)
    return dataclasses.replace(self, labels=self.labels[part], pixels=pixels, encoded=encoded)

  def stream(self, index_batches: Iterable[np.ndarray], **kwargs: Any) -> Iterator[Any]:
    """Batches of the given examples, in the given order; see `spectral_jax.data.stream.stream`."""
    from spectral_jax.data.stream import stream
    return stream(self, index_batches, **kwargs)


@dataclasses.dataclass(frozen=True)
class Dataset:
  """A named data set: `labels` of both parts index `class_names`."""
  name: str
  class_names: tuple[str, ...]
  train: Split
  test: Split

  @property
  def resident(self) -> bool:
    return self.train.resident

  @property
  def image_shape(self) -> tuple[int, int, int]:
    return (self.train.image_size, self.train.image_size, self.train.channels)


def fits_in_memory(count: int, image_size: int, channels: int = 3) -> bool:
  """Whether `path="auto"` keeps that many images resident."""
  return count * image_size * image_size * channels <= RESIDENT_BYTES


def is_resident(data: Config, count: int, channels: int = 3) -> bool:
  """Whether so many images of `config.data` stay in memory: as its `path` says, or by their size."""
  return data.path == "resident" or (data.path == "auto" and fits_in_memory(count, data.image_size, channels))


def same_depth(train: Split, test: Split) -> tuple[Split, Split]:
  """Both parts with 1 channel if all their images are gray, else both with 3."""
  depth = max(train.channels, test.channels)
  return with_channels(train, depth), with_channels(test, depth)


def with_channels(split: Split, depth: int) -> Split:
  """The split with `depth` channels: gray images become three equal ones."""
  if split.channels == depth:
    return split
  if split.pixels is not None:
    return dataclasses.replace(split, pixels=np.repeat(split.pixels, depth, axis=-1))
  encoded = dataclasses.replace(split.encoded, channels=depth)  # pyright: ignore[reportArgumentType]  # it has one
  return dataclasses.replace(split, encoded=encoded)


def check_fraction(fraction: float) -> None:
  if not 0 < fraction < 1:
    raise ConfigError(f"config.data.test_fraction must be between 0 and 1, got {fraction}")


def stratified_split(labels: np.ndarray, fraction: float) -> tuple[np.ndarray, np.ndarray]:
  """Indices of a training and a held-out part that has `fraction` of every class, the same on every call.

  Args:
    labels: `(n,)` integers.
    fraction: share held out, in (0, 1); each class keeps at least one example on either side.

  Returns:
    `(train, test)`, sorted index arrays.

  >>> train, test = stratified_split(np.repeat([0, 1], 10), 0.2)
  >>> len(train), np.bincount(np.repeat([0, 1], 10)[test]).tolist()
  (16, [2, 2])
  """
  check_fraction(fraction)
  labels = np.asarray(labels)
  # RandomState's stream is frozen by NumPy's compatibility policy, so the held-out part is the same in every version.
  random = np.random.RandomState(0)
  test = []
  for label in np.unique(labels):
    members = random.permutation(np.flatnonzero(labels == label))
    if len(members) < 2:
      raise ConfigError(f"class {label} has one image and cannot be split into training and test; add images to it")
    test.append(members[:min(max(1, round(fraction * len(members))), len(members) - 1)])
  test = np.sort(np.concatenate(test))
  return np.setdiff1d(np.arange(len(labels)), test), test
