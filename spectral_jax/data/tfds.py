"""Any image data set prepared by TensorFlow Datasets: decoded once, or streamed through an index of its records."""

from __future__ import annotations

import dataclasses
import os
from typing import TYPE_CHECKING

import numpy as np

from spectral_jax._errors import ConfigError
from spectral_jax._names import check_mounted
from spectral_jax.data.classes import check_counts, choose
from spectral_jax.data.dataset import Dataset, Encoded, Split, is_resident, same_depth, stratified_split
from spectral_jax.data.records import index_records
from spectral_jax.data.tensorflow import import_tensorflow

if TYPE_CHECKING:
  from spectral_jax._types import Config

TEST_NAMES = ("test", "validation")


def open_tfds(data: Config) -> Dataset:
  """The data set that TensorFlow Datasets calls `data.name`, as prepared in `data.data_dir`; nothing is downloaded.

  Its `train` is the training part; its `test`, else its `validation`, else a held-out share of `train` is the test
  part. Labels below zero, which a few data sets have for unlabeled images, are kept.
  """
  builder = _builder(data)
  image, label, channels = _features(builder, data.name)
  splits = builder.info.splits
  if "train" not in splits:
    raise ConfigError(f"{data.name} has no split 'train', only {', '.join(splits)}; choose another data set")
  parts = ["train", *[name for name in TEST_NAMES if name in splits][:1]]
  known = tuple(builder.info.features[label].names)  # pyright: ignore[reportIndexIssue, reportOptionalSubscript]
  names = choose(known, data.classes, data.name, data.name)
  count = sum(splits[part].num_examples for part in parts) * len(names) // len(known)
  # Place k holds the new label of old label k; the last place, which old label -1 reads, that of unlabeled images.
  new_label = np.array([names.index(name) if name in names else None for name in known] + [-1], object)
  build = _resident if is_resident(data, count, channels) else _streamed
  made = [build(builder, part, (image, label, channels), new_label, data) for part in parts]
  if len(made) == 1:
    kept, held = stratified_split(made[0].labels, data.test_fraction)
    made = [made[0].take(kept), dataclasses.replace(made[0].take(held), skipped=())]
  train, test = same_depth(*made)
  check_counts(train.labels, names, f"{data.name}'s training part")
  return Dataset(data.name, names, train, test)


def _builder(data):
  import_tensorflow("reading TensorFlow Datasets")
  try:
    import tensorflow_datasets as tfds
  except ImportError as error:
    raise ImportError("this data set is read with tensorflow-datasets; install the train extra: "
                      "pip install 'spectral_jax[train]'") from error
  from tensorflow_datasets.core import read_only_builder
  name, options = tfds.core.naming.parse_builder_name_kwargs(data.name)  # pyright: ignore[reportAttributeAccessIssue]
  where = os.path.expanduser(data.data_dir or tfds.core.constants.get_default_data_dir())  # pyright: ignore[reportAttributeAccessIssue]
  check_mounted("config.data.data_dir", where)  # which TFDS_DATA_DIR may have set
  try:
    # From the prepared files alone: asking for the builder by name looks on the network for what is not there.
    return read_only_builder.builder_from_files(str(name), data_dir=where, **options)
  except tfds.core.registered.DatasetNotFoundError as error:  # pyright: ignore[reportAttributeAccessIssue]
    manual = " (first put its two archives where the error of that command says)" if str(name) == "imagenet2012" else ""
    # Not `tfds build`, whose imports include Apache Beam.
    fetch = f"import tensorflow_datasets as tfds; tfds.load({data.name!r}, data_dir={where!r})"
    raise ConfigError(f"{data.name} is not prepared in {where}; fetch it with: python -c \"{fetch}\"{manual}, "
                      "or set config.data.data_dir to where it is") from error


def _features(builder, name):
  """Keys of the image and of the label, and the image's channels."""
  import tensorflow_datasets as tfds
  features = builder.info.features
  images = [key for key, feature in features.items() if isinstance(feature, tfds.features.Image)]
  labels = [key for key, feature in features.items() if isinstance(feature, tfds.features.ClassLabel)]
  # "label" where there are several, as in CIFAR-100, which has coarse ones besides.
  labels = ["label"] if "label" in labels else labels
  if len(images) != 1 or len(labels) != 1:
    raise ConfigError(f"{name} has images {images} and class labels {labels}; it needs exactly one of each, "
                     "so choose another data set or make a folder of class folders")
  return images[0], labels[0], 1 if features[images[0]].shape[-1] == 1 else 3


def _streamed(builder, part, features, new_label, data):
  image, label, channels = features
  where = f"{data.name}'s {part}"
  found, read = index_records(builder, part, image, label, skip=data.on_undecodable == "skip", name=data.name)
  labels = found["labels"]
  if labels.max(initial=-1) > len(new_label) - 2:
    raise ConfigError(f"{where} has label {labels.max()}, but {len(new_label) - 1} classes; prepare the data set again")
  labels = new_label[labels]
  wanted = np.array([number is not None for number in labels], bool)
  decodable = found["sizes"][:, 0] > 0
  places = np.flatnonzero(wanted & decodable)
  encoded = Encoded(lambda indices: read(places[indices]), found["sizes"][places], channels,
                    lambda i: f"record {places[i]} of {where}")
  skipped = tuple(f"record {i} of {where}" for i in np.flatnonzero(wanted & ~decodable))
  return Split(labels[places].astype(np.int32), data.image_size, encoded=encoded, skipped=skipped)


def _resident(builder, part, features, new_label, data):
  split = _streamed(builder, part, features, new_label, data)
  return dataclasses.replace(split, pixels=split.images(), encoded=None)
