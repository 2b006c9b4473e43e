"""A folder of class folders: `train/CLASS/*` and `test/CLASS/*` (or `val`), or `CLASS/*`, a part held out."""

from __future__ import annotations

import concurrent.futures
import dataclasses
import os
import pathlib
import types
from typing import TYPE_CHECKING

import numpy as np

from spectral_jax._errors import ConfigError
from spectral_jax._names import check_mounted
from spectral_jax.data.cache import THREADS, fingerprint, index
from spectral_jax.data.classes import check_counts, choose
from spectral_jax.data.dataset import Dataset, Encoded, Split, fits_in_memory, is_resident, same_depth, stratified_split
from spectral_jax.data.decode import Undecodable, decode_all, measure, reading
from spectral_jax.progress import bar

if TYPE_CHECKING:
  from spectral_jax._types import Config

SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".gif", ".webp")
TEST_NAMES = ("test", "val", "validation")
# Files that are looked at in one go.
PORTION = 256


def open_folder(data: Config) -> Dataset:
  """The data set in the folder `data.data_dir`; classes are its folders' names in alphabetical order."""
  root = _existing(data.data_dir)
  skip = data.on_undecodable == "skip"
  train_root = root / "train" if (root / "train").is_dir() else root
  test_root = next((root / name for name in TEST_NAMES if train_root != root and (root / name).is_dir()), None)
  names = choose(_class_folders(train_root), data.classes, train_root, data.name)
  train = _list_images(train_root, names, skip)
  check_counts(train[1], names, train_root)
  if test_root is None:
    kept, held = stratified_split(train[1], data.test_fraction)
    train, test = (train[0][kept], train[1][kept], train[2]), (train[0][held], train[1][held], ())
  else:
    _same_classes(_class_folders(test_root), _class_folders(train_root), test_root, train_root)
    test = _list_images(test_root, names, skip)
    if not len(test[0]):
      raise ConfigError(f"{test_root} has no images of the classes in {train_root}; add them or remove {test_root}")
  count = len(train[0]) + len(test[0])
  build = _resident if is_resident(data, count) else _streamed
  train, test = same_depth(*[build(*part, data) for part in (train, test)])
  check_counts(train.labels, names, train_root)
  return Dataset(root.resolve().name, names, train, test)


def open_images(folder: str, *, image_size: int, channels: int,
                on_undecodable: str = "error") -> tuple[Split, list[str], tuple[str, ...]]:
  """Every image below a folder, whatever its depth; its class is the name of the folder that it lies in.

  Args:
    folder: where to look; hidden files and folders are left out.
    image_size: side in pixels.
    channels: 1 or 3.
    on_undecodable: "error", or "skip" to leave such images out.

  Returns:
    `(split, names, class_names)`: a `Split`, its images' paths below `folder`, and its classes; images that lie in
    `folder` itself have label -1.
  """
  root = _existing(folder)
  files = sorted(path for path in root.rglob("*") if path.suffix.lower() in SUFFIXES and path.is_file()
                 and not any(part.startswith(".") for part in path.relative_to(root).parts))
  if not files:
    raise ConfigError(f"{root} has no images in it or below it; looked for {', '.join(SUFFIXES)}")
  parents = [path.parent.name if path.parent != root else None for path in files]
  class_names = tuple(sorted({parent for parent in parents if parent is not None}))
  labels = np.array([-1 if parent is None else class_names.index(parent) for parent in parents], np.int32)
  paths = np.array([str(path) for path in files], object)
  if fits_in_memory(len(paths), image_size, channels):
    pixels, kept = decode_all(_encoded(paths, None, channels), len(paths), size=image_size, channels=channels,
                              on_undecodable=on_undecodable)
    split, left = Split(labels[kept], image_size, pixels=pixels, skipped=tuple(paths[~kept])), paths[kept]
  else:
    split = _streamed(paths, labels, (), types.SimpleNamespace(image_size=image_size, on_undecodable=on_undecodable))
    split = dataclasses.replace(split, encoded=dataclasses.replace(split.encoded, channels=channels))  # pyright: ignore[reportArgumentType]
    left = [split.encoded.describe(i) for i in range(split.size)]  # pyright: ignore[reportOptionalMemberAccess]
  return split, [os.path.relpath(path, root) for path in left], class_names


def _existing(data_dir):
  if not data_dir:
    raise ConfigError("config.data.name='folder' needs the folder: --config.data.data_dir=DIR")
  check_mounted("config.data.data_dir", data_dir)
  root = pathlib.Path(data_dir).expanduser()
  if not root.is_dir():
    raise ConfigError(
        f"config.data.data_dir={str(data_dir)!r} is not a folder; unpack the images there, as train/CLASS/*.jpg and "
        f"test/CLASS/*.jpg or as CLASS/*.jpg: mkdir -p '{root}' && tar -xf ARCHIVE -C '{root}'")
  return root


def _class_folders(root):
  names = sorted(entry.name for entry in os.scandir(root) if entry.is_dir() and not entry.name.startswith("."))
  if not names:
    raise ConfigError(f"{root} has no class folders; images belong in {root}/CLASS/, one folder a class")
  return tuple(names)


def _list_images(root, names, skip):
  """Paths, labels, and the names of images that are none: folders, pipes, sockets and links to nothing."""
  paths, labels, odd = [], [], []
  for label, name in enumerate(names):
    if not (root / name).is_dir():
      continue
    found = sorted((entry for entry in os.scandir(root / name)
                    if entry.name.lower().endswith(SUFFIXES) and not entry.name.startswith(".")), key=lambda e: e.path)
    files = [entry.path for entry in found if entry.is_file()]
    odd += [entry for entry in found if not entry.is_file()]
    paths += files
    labels += [label] * len(files)
  if odd and not skip:
    entry = odd[0]
    what = "a link to nothing" if entry.is_symlink() and not os.path.exists(entry.path) else "no file"
    raise Undecodable(entry.path, f"it is {'a folder' if entry.is_dir() else what}")
  if not paths and root.name not in TEST_NAMES:
    raise ConfigError(f"{root} has {len(names)} folders but no images; looked for {', '.join(SUFFIXES)} "
                      f"in {root}/CLASS/")
  return np.array(paths, object), np.array(labels, np.int32), tuple(entry.path for entry in odd)


def _same_classes(test, train, test_root, train_root):
  unknown = sorted(set(test) - set(train))
  if unknown:
    raise ConfigError(f"{test_root} has classes that {train_root} lacks: {', '.join(unknown[:5])}; "
                      "both need the same class folders")


def _encoded(paths, sizes, channels):
  return Encoded(lambda indices: [pathlib.Path(paths[i]).read_bytes() for i in indices], sizes, channels,
                 lambda i: paths[i])


def _resident(paths, labels, odd, data):
  pixels, kept = decode_all(_encoded(paths, None, None), len(paths), size=data.image_size,
                            on_undecodable=data.on_undecodable)
  return Split(labels[kept], data.image_size, pixels=pixels, skipped=odd + tuple(paths[~kept]))


def _streamed(paths, labels, odd, data):
  """Sizes come from the headers; where undecodable files are to be skipped every file is decoded, once."""
  skip = data.on_undecodable == "skip"
  starts = range(0, len(paths), PORTION)
  counts = [min(PORTION, len(paths) - start) for start in starts]
  place = os.path.commonpath([os.path.dirname(path) for path in paths])

  def sizes(p):
    rows = []
    for path in paths[starts[p]:starts[p] + counts[p]]:
      with reading(path):
        file = open(path, "rb")
      with file:
        found = measure(lambda n: _head(file, path, n), whole=skip)
      if isinstance(found, Exception) and not skip:
        raise Undecodable(path, found) from found
      rows.append((0, 0, 0) if isinstance(found, Exception) else found)
    return rows

  key = fingerprint("folder", 2, skip, *paths, *_stats(paths))
  found = index(f"folder-{key}", counts, 3, sizes, f"indexing {place}").astype(np.int32)
  kept = found[:, 0] > 0
  encoded = _encoded(paths[kept], found[kept, :2], int(found[kept, 2].max(initial=1)))
  return Split(labels[kept], data.image_size, encoded=encoded, skipped=odd + tuple(paths[~kept]))


def _head(file, path, n):
  with reading(path):
    file.seek(0)
    return file.read(n)


def _stats(paths):
  """Sizes and times of change of all files, which tell whether an index is still theirs."""
  def look(start):
    stats = []
    for path in paths[start:start + PORTION]:
      with reading(path):
        stats.append(os.stat(path))
    return [n for stat in stats for n in (stat.st_size, stat.st_mtime_ns)]

  numbers = []
  with concurrent.futures.ThreadPoolExecutor(THREADS) as pool, bar("looking for changes", len(paths)) as progress:
    for found in pool.map(look, range(0, len(paths), PORTION)):
      numbers += found
      progress.update(len(found) // 2)
  return numbers
