"""Contrastive representation learning in JAX, seen through its gradients and spectra.

The mathematics (`losses`, `gradients`, `bounds`, `spectrum`, `selection`, `metrics`) needs JAX alone.
Training (`spectral_jax.training`, `python -m spectral_jax.main`) and `load_encoder` need the `train` extra.
"""

import importlib

_MODULES = ("bounds", "gradients", "losses", "metrics", "selection", "spectrum")
__all__ = ["bounds", "gradients", "load_encoder", "losses", "metrics", "selection", "spectrum"]
__version__ = "0.1.0"


def __getattr__(name):
  if name in _MODULES:  # imported when first used, so that a project pays for what it takes
    return importlib.import_module(f"spectral_jax.{name}")
  if name == "load_encoder":
    return importlib.import_module("spectral_jax.encoder").load_encoder
  raise AttributeError(f"module 'spectral_jax' has no attribute {name!r}; it has {', '.join(__all__)}")


def __dir__():
  return [*globals(), *__all__]
