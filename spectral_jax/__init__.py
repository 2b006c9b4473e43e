"""Contrastive representation learning in JAX, seen through its gradients and spectra.

The mathematics (`losses`, `gradients`, `bounds`, `spectrum`, `selection`, `metrics`) needs JAX alone.
Training (`spectral_jax.training`, `python -m spectral_jax.main`) needs the `train` extra.
"""

import importlib

__all__ = ["bounds", "gradients", "losses", "metrics", "selection", "spectrum"]
__version__ = "0.1.0"


def __getattr__(name):
  if name in __all__:  # imported when first used, so that a project pays for what it takes
    return importlib.import_module(f"spectral_jax.{name}")
  raise AttributeError(f"module 'spectral_jax' has no attribute {name!r}; it has {', '.join(__all__)}")


def __dir__():
  return [*globals(), *__all__]
