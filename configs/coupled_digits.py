"""Contrastive and supervised learners on the digits under shared randomness: do they stay aligned? (arXiv 2510.08852)

  python -m spectral_jax.main --config=configs/coupled_digits.py

One initialization, the same batches, the same augmentation draws; what differs is the objective: DCL, negatives-only
supervised (NSCL) with and without the positive in the denominator, SupCon, cross-entropy.

Hardware: 2 CPU cores. Time and accuracy: not yet measured.
"""

from spectral_jax.config import load_config
from spectral_jax.defaults import learner, learners


def get_config(arg=None):
  del arg
  config = load_config("digits")
  config.learners = learners(
      cl=learner("dcl"),
      nscl=learner("nscl"),
      nscl_positive=learner("nscl", positive_in_denominator=True),
      supcon=learner("supcon"),
      cross_entropy=learner("cross_entropy"))
  config.main_learner = "cl"
  return config
