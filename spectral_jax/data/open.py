"""From the `data` section of a config to a data set."""

from spectral_jax._names import check_name
from spectral_jax.data.digits import open_digits

PATHS = ("auto", "resident", "stream")
POLICIES = ("error", "skip")


def open_dataset(data):
  """Opens the data set that `config.data` describes, checked as far as that goes before anything is computed.

  Args:
    data: ConfigDict with
      `name`: "digits" (scikit-learn's), "folder" (a folder of class folders at `data_dir`) or any name that TensorFlow
        Datasets knows, prepared in `data_dir` ("" is its default folder);
      `image_size`: side of the images in pixels;
      `path`: "resident" (decoded once to uint8), "stream" (decoded and cropped in every step) or "auto" (resident up to
        2 GiB of decoded images);
      `test_fraction`: share held out where there is no test part, the same in every run: of each class, or of all digits;
      `classes`: "" for all or "imagenet100" for those 100 classes;
      `on_undecodable`: "error", or "skip" to leave such images out and count them (`split.skipped`).

  Returns:
    A `Dataset`.

  Raises:
    FileNotFoundError: the data are not there; the message has the command that fetches them.
    ImportError: an extra is missing; the message names it.
    ValueError: on an unknown name, a class with one image, an undecodable image.

  >>> import ml_collections
  >>> digits = open_dataset(ml_collections.ConfigDict(dict(
  ...     name="digits", data_dir="", image_size=8, path="auto", test_fraction=0.2, classes="",
  ...     on_undecodable="error")))
  >>> digits.train.size, digits.test.size, digits.train.images().shape
  (1437, 360, (1437, 8, 8, 1))
  """
  check_name("data.path", data.path, PATHS)
  check_name("data.on_undecodable", data.on_undecodable, POLICIES)
  if data.image_size < 1:
    raise ValueError(f"config.data.image_size must be a positive number of pixels, got {data.image_size}")
  if data.name == "digits":
    return open_digits(data)
  if data.name == "folder":
    from spectral_jax.data.folder import open_folder
    return open_folder(data)
  from spectral_jax.data.tfds import open_tfds
  return open_tfds(data)
