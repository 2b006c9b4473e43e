"""Which examples share a batch, decided by their embeddings: by the spectrum, and by the rules it is compared with.

For rows `x_i` on the unit sphere and a set S of k of them, `C = sum_{i in S} x_i x_i^T` and
`F = ||C||_F^2 = sum_{i,j in S} (x_i . x_j)^2`; the participation ratio `PR(S) = k^2 / F` is the effective rank that
every rule here speaks of. It needs no eigendecomposition, and adding x changes F by `2 x^T C x + 1`.

Every function takes embeddings `(m, d)`, normalizes their rows itself, and returns int32 indices into them without
repeats, a deterministic function of `key`. Rows that are zero have no direction, and are taken only when nothing else
is left to look at; rows that are not finite are refused by name, or treated like zero rows where the values are
traced and cannot be read.
"""

from spectral_jax.selection.epoch import epoch_batches
from spectral_jax.selection.greedy import greedy_batch
from spectral_jax.selection.hard import hard_batch
from spectral_jax.selection.jest import jest_batch
from spectral_jax.selection.log_det import log_det_batch
from spectral_jax.selection.pool import pool_batch
from spectral_jax.selection.submodular import submodular_batch
from spectral_jax.selection.table import check_table
from spectral_jax.selection.uniform import random_batch

__all__ = ["check_table", "epoch_batches", "greedy_batch", "hard_batch", "jest_batch", "log_det_batch", "pool_batch",
           "random_batch", "submodular_batch"]
