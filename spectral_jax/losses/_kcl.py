"""Kernel contrastive losses."""

from __future__ import annotations

from collections.abc import Hashable
from typing import TYPE_CHECKING

import jax.numpy as jnp
from jax import lax

from spectral_jax import _arrays, _eager
from spectral_jax.losses import _common, _engine, kernels
from spectral_jax.losses._pairs import make_rows
from spectral_jax.losses._statistics import KernelSum

if TYPE_CHECKING:
  from jax.typing import DTypeLike
  from jaxtyping import Array, ArrayLike, Bool, Float

  from spectral_jax._types import Kernel, Reduction, Scalar


@_eager.compiled("kernel", "align_kernel", *_common.SETTINGS, gamma=_arrays.positive)
def kcl(u: Float[ArrayLike, "n d"], v: Float[ArrayLike, "n d"], *, kernel: Kernel = kernels.gaussian(2.0),
        align_kernel: Kernel | None = None, gamma: Scalar = 16.0, normalize: bool = True,
        where: Bool[ArrayLike, " n"] | None = None, reduction: Reduction = "mean", tile_size: int | None = None,
        matmul_dtype: DTypeLike | None = None, axis_name: str | None = None) -> Float[Array, ""] | Float[Array, " n"]:
  """Kernel contrastive loss: kernel similarity of positives against the kernel energy of each view.

  `L = -2 mean_i k_A(||u_i - v_i||^2) + gamma (E_U + E_V)`, `E_U` the mean of `k(||u_i - u_j||^2)` over pairs i < j: a
  U-statistic, whose expectation does not depend on the batch size.

  Args:
    u: `(n, d)` embeddings of the first view.
    v: `(n, d)` embeddings of the second view, row by row.
    kernel: function of the squared distance, hashable, from `losses.kernels` or your own; Gaussian with t = 2.
    align_kernel: kernel of the positives; None is `kernel`.
    gamma: weight of the energies, > 0, a number or a traced scalar; 16 as in the paper's experiments.
    normalize: L2-normalize rows; a zero row stays zero and has zero gradient.
    where: `(n,)` booleans, the rows that count, as anchors and as negatives; None is all of them.
    reduction: "mean", or "none": each anchor's share `(n,)`, whose mean is the loss.
    tile_size: number of anchor rows whose similarities are alive at once; None picks by size, n and more are the dense
      form. The result does not depend on it.
    matmul_dtype: round the factors of matrix products to this dtype (bfloat16, say), accumulating in float32; None
      does not round.
    axis_name: inside `shard_map`, the mesh axis over which the rows are sharded; negatives are then global.

  Returns:
    A scalar, or `(n,)`; at least float32. A single image has no pairs: its energies are 0.

  Raises:
    TypeError: embeddings that are not floating-point, a kernel that cannot be called.
    ValueError: shapes that do not fit, `gamma <= 0`, a Riesz kernel with s > 0 for alignment (infinite at a perfect
      pair).

  Example:
    >>> import jax.numpy as jnp
    >>> from spectral_jax import losses
    >>> print(f"{losses.kcl(jnp.eye(4), jnp.eye(4)):.4f}")
    -1.4139

  Reference: Koromilas et al. 2024, arXiv 2405.18045; the authors' code weights the log kernel's alignment twice, this
    is the formula.
  """
  align_kernel = kernel if align_kernel is None else align_kernel
  for name, k in (("kernel", kernel), ("align_kernel", align_kernel)):
    if not callable(k):
      raise TypeError(f"{name} must be a function of the squared distance, got {k!r}; try losses.kernels.gaussian(2.0)")
    if not isinstance(k, Hashable):
      raise TypeError(f"{name} must be hashable, got {k!r}; make it a function, or a frozen dataclass with __call__")
  kernels.check_alignment(align_kernel)
  views = _common.prepare_views(u, v, where=where, normalize=normalize, axis_name=axis_name)
  gamma = jnp.asarray(_arrays.positive("gamma", gamma)).astype(views.u.dtype)
  plan = _common.plan_for(len(views.u), tile_size, matmul_dtype, axis_name)
  count = views.valid.sum(dtype=views.u.dtype)
  if axis_name is not None:
    count = lax.psum(count, axis_name)

  def share_of_energy(x):
    return _engine.within(KernelSum(kernel), make_rows(x, views.image, views.valid), plan) / jnp.maximum(count - 1, 1)

  apart = jnp.sum((views.u - views.v) ** 2, axis=1)
  values = -2.0 * align_kernel(apart) + gamma * (share_of_energy(views.u) + share_of_energy(views.v))
  return _common.reduce(values, views.valid, reduction, axis_name)
