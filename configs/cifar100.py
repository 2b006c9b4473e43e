"""CIFAR-100: 50,000 training and 10,000 test images of 32x32 pixels in 100 classes.

  python -m spectral_jax.main --config=configs/cifar100.py [--config.data.data_dir=FOLDER_OF_TFDS]

Hardware: one accelerator of 16 GB or more. Time and accuracy: not yet measured.
"""

from spectral_jax.config import load_config


def get_config(arg=None):
  del arg
  config = load_config("cifar10")
  config.data.name = "cifar100"
  return config
