"""Contrastive representation learning in JAX, seen through its gradients and spectra.

The mathematics (`losses`, `gradients`, `bounds`, `spectrum`, `selection`, `metrics`) needs JAX alone.
Training (`spectral_jax.training`, `python -m spectral_jax.main`) needs the `train` extra.
"""

from spectral_jax import bounds, gradients, losses, metrics, selection, spectrum

__all__ = ["bounds", "gradients", "losses", "metrics", "selection", "spectrum"]
__version__ = "0.1.0"
