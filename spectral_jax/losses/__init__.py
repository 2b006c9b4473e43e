"""Contrastive losses, pure functions of embeddings: exact values and gradients in linear memory, on a device or a mesh.

`u` and `v` are `(n, d)`: row i of `v` is the positive of row i of `u`. All functions work under `jit`, `vmap`, `grad`,
`jax.checkpoint`, `lax.scan` and `shard_map`, compute in at least float32 and return nats (`kcl`: units of its kernel).
"""

from spectral_jax.losses import kernels
from spectral_jax.losses._global import global_contrastive
from spectral_jax.losses._hard import debiased, hard_negative
from spectral_jax.losses._kcl import kcl
from spectral_jax.losses._sharded import sharded
from spectral_jax.losses._sigmoid import sigmoid
from spectral_jax.losses._softmax import dcl, dhel, info_nce, nt_xent
from spectral_jax.losses._spectral import spectral_contrastive
from spectral_jax.losses._supervised import nscl, supcon

__all__ = [
    "dcl", "debiased", "dhel", "global_contrastive", "hard_negative", "info_nce", "kcl", "kernels", "nscl", "nt_xent",
    "sharded", "sigmoid", "spectral_contrastive", "supcon"]
