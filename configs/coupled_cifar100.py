"""Contrastive and supervised learners on CIFAR-100 under shared randomness (arXiv 2510.08852); see coupled_digits.py.

  python -m spectral_jax.main --config=configs/coupled_cifar100.py [--config.data.data_dir=FOLDER_OF_TFDS]

Hardware: that of configs/cifar100.py, with the memory for five models. Time and accuracy: not yet measured.
"""

from spectral_jax.config import load_config


def get_config(arg=None):
  config = load_config("cifar100")
  coupled = load_config(f"coupled_digits:{arg}" if arg else "coupled_digits")
  config.learners, config.main_learner = coupled.learners, coupled.main_learner
  return config
