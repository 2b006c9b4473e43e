"""A folder of class folders: `train/CLASS/*` and `test/CLASS/*` (or `val`), or `CLASS/*`, a part held out."""

import concurrent.futures
import functools
import os
import pathlib

import numpy as np

from spectral_jax.data.cache import cached, fingerprint
from spectral_jax.data.classes import check_counts, choose
from spectral_jax.data.dataset import Dataset, Encoded, Split, fits_in_memory, same_depth, stratified_split
from spectral_jax.data.decode import THREADS, Undecodable, decode_all, inspect

SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".gif", ".webp")
TEST_NAMES = ("test", "val", "validation")


def open_folder(data):
  """The data set in the folder `data.data_dir`; classes are its folders' names in alphabetical order."""
  root = _existing(data.data_dir)
  train_root = root / "train" if (root / "train").is_dir() else root
  test_root = next((root / name for name in TEST_NAMES if train_root != root and (root / name).is_dir()), None)
  names = choose(_class_folders(train_root), data.classes, train_root)
  train = _list_images(train_root, names)
  check_counts(train[1], names, train_root)
  if test_root is None:
    kept, held = stratified_split(train[1], data.test_fraction)
    train, test = [(train[0][part], train[1][part]) for part in (kept, held)]
  else:
    _same_classes(_class_folders(test_root), _class_folders(train_root), test_root, train_root)
    test = _list_images(test_root, names)
    if not len(test[0]):
      raise ValueError(f"{test_root} has no images of the classes in {train_root}; add them or remove {test_root}")
  count = len(train[0]) + len(test[0])
  resident = data.path == "resident" or data.path == "auto" and fits_in_memory(count, data.image_size)
  build = _resident if resident else _streamed
  train, test = same_depth(*[build(paths, labels, data) for paths, labels in (train, test)])
  check_counts(train.labels, names, train_root)
  return Dataset(root.resolve().name, names, train, test)


def _existing(data_dir):
  if not data_dir:
    raise ValueError("config.data.name='folder' needs the folder: --config.data.data_dir=DIR")
  root = pathlib.Path(data_dir).expanduser()
  if not root.is_dir():
    raise FileNotFoundError(
        f"config.data.data_dir={str(data_dir)!r} is not a folder; unpack the images there, as train/CLASS/*.jpg and "
        f"test/CLASS/*.jpg or as CLASS/*.jpg: mkdir -p '{root}' && tar -xf ARCHIVE -C '{root}'")
  return root


def _class_folders(root):
  names = sorted(entry.name for entry in os.scandir(root) if entry.is_dir() and not entry.name.startswith("."))
  if not names:
    raise ValueError(f"{root} has no class folders; images belong in {root}/CLASS/, one folder a class")
  return tuple(names)


def _list_images(root, names):
  paths, labels = [], []
  for label, name in enumerate(names):
    if not (root / name).is_dir():
      continue
    files = sorted(entry.path for entry in os.scandir(root / name)
                   if entry.name.lower().endswith(SUFFIXES) and not entry.name.startswith("."))
    paths += files
    labels += [label] * len(files)
  if not paths and root.name not in TEST_NAMES:
    raise ValueError(f"{root} has {len(names)} folders but no images; looked for {', '.join(SUFFIXES)} "
                     f"in {root}/CLASS/")
  return np.array(paths, object), np.array(labels, np.int32)


def _same_classes(test, train, test_root, train_root):
  unknown = sorted(set(test) - set(train))
  if unknown:
    raise ValueError(f"{test_root} has classes that {train_root} lacks: {', '.join(unknown[:5])}; "
                     "both need the same class folders")


def _read(paths, indices):
  if len(indices) == 1:
    return [pathlib.Path(paths[indices[0]]).read_bytes()]
  # Opening files waits for the disk, not for the processor.
  return list(_readers().map(lambda i: pathlib.Path(paths[i]).read_bytes(), indices))


@functools.cache
def _readers():
  return concurrent.futures.ThreadPoolExecutor(THREADS, thread_name_prefix="read-images")


def _resident(paths, labels, data):
  pixels, kept = decode_all((pathlib.Path(p).read_bytes() for p in paths), lambda i: paths[i], size=data.image_size,
                            on_undecodable=data.on_undecodable)
  return Split(labels[kept], data.image_size, pixels=pixels, skipped=tuple(paths[~kept]))


def _streamed(paths, labels, data):
  """Sizes come from the headers; where undecodable files are to be skipped every file is decoded, once."""
  skip = data.on_undecodable == "skip"

  def sizes():
    with concurrent.futures.ThreadPoolExecutor(THREADS) as pool:
      found = list(pool.map(lambda path: inspect(pathlib.Path(path).read_bytes(), whole=skip), paths))
    bad = [i for i, result in enumerate(found) if isinstance(result, Exception)]
    if bad and not skip:
      raise Undecodable(paths[bad[0]], found[bad[0]]) from found[bad[0]]
    return {"sizes": np.array([(0, 0, 0) if isinstance(f, Exception) else f for f in found], np.int32)}

  stats = [os.stat(path) for path in paths]
  key = fingerprint("folder", skip, *paths, *(s.st_size for s in stats), *(s.st_mtime_ns for s in stats))
  found = cached(f"folder-{key}", sizes)["sizes"]
  kept = found[:, 0] > 0
  encoded = Encoded(functools.partial(_read, paths[kept]), found[kept, :2], int(found[kept, 2].max(initial=1)),
                    lambda i: paths[kept][i])
  return Split(labels[kept], data.image_size, encoded=encoded, skipped=tuple(paths[~kept]))
