"""Any image data set prepared by TensorFlow Datasets: decoded once, or streamed through an index of its records."""

import numpy as np

from spectral_jax._names import nearest
from spectral_jax.data.classes import check_counts, choose
from spectral_jax.data.dataset import Dataset, Encoded, Split, fits_in_memory, same_depth, stratified_split
from spectral_jax.data.decode import decode_all
from spectral_jax.data.records import index_records
from spectral_jax.data.tensorflow import import_tensorflow

TEST_NAMES = ("test", "validation")
BATCH = 1024


def open_tfds(data):
  """The data set that TensorFlow Datasets calls `data.name`, as prepared in `data.data_dir`; nothing is downloaded.

  Its `train` is the training part; its `test`, else its `validation`, else a held-out share of `train` is the test
  part. Labels below zero, which a few data sets have for unlabelled images, are kept.
  """
  builder = _builder(data)
  image, label, channels = _features(builder, data.name)
  splits = builder.info.splits
  if "train" not in splits:
    raise ValueError(f"{data.name} has no split 'train', only {', '.join(splits)}; choose another data set")
  parts = ["train"] + [name for name in TEST_NAMES if name in splits][:1]
  known = tuple(builder.info.features[label].names)
  names = choose(known, data.classes, data.name)
  count = sum(splits[part].num_examples for part in parts) * len(names) // len(known)
  resident = data.path == "resident" or data.path == "auto" and fits_in_memory(count, data.image_size, channels)
  # Place k holds the new label of old label k; the last place, which old label -1 reads, that of unlabelled images.
  new_label = np.array([names.index(name) if name in names else None for name in known] + [-1], object)
  build = _resident if resident else _streamed
  made = [build(builder, part, (image, label, channels), new_label, data) for part in parts]
  if len(made) == 1:
    made = [_take(made[0], part) for part in stratified_split(made[0].labels, data.test_fraction)]
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
  name, options = tfds.core.naming.parse_builder_name_kwargs(data.name)
  try:
    # From the prepared files alone: asking for the builder by name looks on the network for what is not there.
    return read_only_builder.builder_from_files(str(name), data_dir=data.data_dir or None, **options)
  except tfds.core.registered.DatasetNotFoundError as error:
    known = ["digits", "folder", *tfds.list_builders()]
    if str(name) not in known:
      raise ValueError(f"config.data.name={data.name!r} is not known.{nearest(str(name), known)} It is 'digits', "
                       "'folder' (with config.data.data_dir) or a name of TensorFlow Datasets") from error
    where = data.data_dir or tfds.core.constants.get_default_data_dir()
    manual = " (first put its two archives where the error of that command says)" if str(name) == "imagenet2012" else ""
    # Not `tfds build`, whose imports include Apache Beam.
    fetch = f"import tensorflow_datasets as tfds; tfds.load({data.name!r}, data_dir={where!r})"
    raise FileNotFoundError(f"{data.name} is not prepared in {where}; fetch it with: python -c \"{fetch}\"{manual}, "
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
    raise ValueError(f"{name} has images {images} and class labels {labels}; it needs exactly one of each, "
                     "so choose another data set or make a folder of class folders")
  return images[0], labels[0], 1 if features[images[0]].shape[-1] == 1 else 3


def _resident(builder, part, features, new_label, data):
  import tensorflow_datasets as tfds
  if builder.info.file_format == tfds.core.FileFormat.ARRAY_RECORD:
    # tf.data cannot read these files; the index can.
    split = _streamed(builder, part, features, new_label, data)
    return Split(split.labels, data.image_size, pixels=split.images(), skipped=split.skipped)
  image, label, channels = features
  examples = builder.as_dataset(
      split=part, shuffle_files=False, batch_size=BATCH,
      # One file at a time, so that examples come in the order of the files.
      read_config=tfds.ReadConfig(interleave_cycle_length=1, try_autocache=False),
      decoders=tfds.decode.PartialDecoding({image, label}, decoders={image: tfds.decode.SkipDecoding()}))
  places, labels = [], []

  def blobs():
    start = 0
    for batch in tfds.as_numpy(examples):
      renumbered = new_label[batch[label]]
      for i in np.flatnonzero([number is not None for number in renumbered]):
        places.append(start + i)
        labels.append(renumbered[i])
        yield batch[image][i]
      start += len(renumbered)

  pixels, kept = decode_all(blobs(), lambda i: f"record {places[i]} of {data.name}'s {part}", size=data.image_size,
                            channels=channels, on_undecodable=data.on_undecodable)
  skipped = tuple(f"record {places[i]} of {data.name}'s {part}" for i in np.flatnonzero(~kept))
  return Split(np.array(labels, np.int32)[kept], data.image_size, pixels=pixels, skipped=skipped)


def _streamed(builder, part, features, new_label, data):
  image, label, channels = features
  found, read = index_records(builder, part, image, label, skip=data.on_undecodable == "skip", name=data.name)
  labels = new_label[found["labels"]]
  wanted = np.array([number is not None for number in labels])
  decodable = found["sizes"][:, 0] > 0
  places = np.flatnonzero(wanted & decodable)

  def describe(i):
    return f"record {places[i]} of {data.name}'s {part}"

  skipped = tuple(f"record {i} of {data.name}'s {part}" for i in np.flatnonzero(wanted & ~decodable))
  encoded = Encoded(lambda indices: read(places[indices]), found["sizes"][places], channels, describe)
  return Split(labels[places].astype(np.int32), data.image_size, encoded=encoded, skipped=skipped)


def _take(split, part):
  """The examples `part` of a split, as a split."""
  if split.resident:
    return Split(split.labels[part], split.image_size, pixels=split.pixels[part], skipped=split.skipped)
  whole = split.encoded
  encoded = Encoded(lambda i: whole.read(part[i]), whole.sizes[part], whole.channels, lambda i: whole.describe(part[i]))
  return Split(split.labels[part], split.image_size, encoded=encoded, skipped=split.skipped)
