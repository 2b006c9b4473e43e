"""Contrastive and supervised learners on ImageNet-100 under shared randomness (arXiv 2510.08852): see coupled_digits.

  python -m spectral_jax.main --config=configs/coupled_imagenet100.py [--config.data.data_dir=FOLDER_OF_TFDS]

Hardware: that of configs/imagenet100.py, with the memory for five models. Time and accuracy: not yet measured.
"""

from spectral_jax.config import load_config


def get_config(arg=None):
  del arg
  config = load_config("imagenet100")
  config.learners = load_config("coupled_digits").learners
  config.main_learner = "cl"
  return config
