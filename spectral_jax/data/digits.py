"""scikit-learn's digits: 1,797 handwritten digits of 8x8 pixels from the UCI repository, inside the package itself."""

import numpy as np

from spectral_jax.data.classes import choose
from spectral_jax.data.dataset import Dataset, Split, check_fraction
from spectral_jax.data.decode import resize


def open_digits(data):
  """The digits with a held-out part, `data.test_fraction` of them drawn at random, the same in every run."""
  if data.path == "stream":
    raise ValueError("config.data.path='stream' has nothing to stream for the digits, which are in memory; use 'auto'")
  check_fraction(data.test_fraction)
  names = choose([str(i) for i in range(10)], data.classes, "the digits")
  try:
    from sklearn.datasets import load_digits
  except ImportError as error:
    raise ImportError("the digits come with scikit-learn; install the train extra: pip install 'spectral_jax[train]'"
                      ) from error
  digits = load_digits()
  # Grey levels are whole numbers from 0 to 16.
  images = np.round(digits.images * (255 / 16)).astype(np.uint8)[..., None]
  if data.image_size != 8:
    images = np.stack([resize(image, data.image_size) for image in images])
  labels = digits.target.astype(np.int32)
  # The file is ordered by writer: shuffled, so that every writer is on both sides.
  order = np.random.default_rng(0).permutation(len(labels))
  kept = int(len(labels) * (1 - data.test_fraction))
  train, test = (Split(labels[part], data.image_size, pixels=images[part])
                 for part in (np.sort(order[:kept]), np.sort(order[kept:])))
  return Dataset("digits", names, train, test)
