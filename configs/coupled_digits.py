"""Contrastive and supervised learners on the digits under shared randomness: do they stay aligned? (arXiv 2510.08852)

  python -m spectral_jax.main --config=configs/coupled_digits.py
  python -m spectral_jax.main --config=configs/coupled_digits.py:cl,nscl      # these learners alone

One initialization, the same batches, the same augmentation draws; what differs is the objective: DCL, negatives-only
supervised (NSCL) with and without the positive in the denominator, SupCon, cross-entropy.

Hardware: 2 CPU cores. Time and accuracy: not yet measured.
"""

from spectral_jax._errors import ConfigError
from spectral_jax._names import nearest
from spectral_jax.config import load_config
from spectral_jax.defaults import learner, learners


def get_config(arg=None):
  config = load_config("digits")
  sections = dict(
      cl=learner("dcl"),
      nscl=learner("nscl"),
      nscl_positive=learner("nscl", positive_in_denominator=True),
      supcon=learner("supcon"),
      cross_entropy=learner("cross_entropy"))
  names = arg.split(",") if arg else list(sections)
  for name in names:
    if name not in sections:
      raise ConfigError(f"there is no learner {name!r}.{nearest(name, sections)} There are {', '.join(sections)}")
  config.learners = learners(**{name: sections[name] for name in names})
  config.main_learner = names[0]
  return config
