"""The spectral contrastive loss: a low-rank factorization of the graph of augmentations."""

from __future__ import annotations

from typing import TYPE_CHECKING

import jax.numpy as jnp

from spectral_jax import _eager
from spectral_jax.losses import _common, _engine
from spectral_jax.losses._pairs import make_rows
from spectral_jax.losses._statistics import ScoreSum

if TYPE_CHECKING:
  from jax.typing import DTypeLike
  from jaxtyping import Array, ArrayLike, Bool, Float

  from spectral_jax._types import Reduction

SQUARES = ScoreSum(jnp.square)


@_eager.compiled(*_common.SETTINGS)
def spectral_contrastive(u: Float[ArrayLike, "n d"], v: Float[ArrayLike, "n d"], *, normalize: bool = True,
                         where: Bool[ArrayLike, " n"] | None = None, reduction: Reduction = "mean",
                         tile_size: int | None = None, matmul_dtype: DTypeLike | None = None,
                         axis_name: str | None = None) -> Float[Array, ""] | Float[Array, " n"]:
  """Spectral contrastive loss: positives' similarity against negatives' squared similarity; no temperature.

  `l_i = -2 u_i.v_i + mean_j (u_i.z_j)^2`, j over the 2n-2 rows z of both views that are not of image i; averaged with u
  and v exchanged.

  Args:
    u: `(n, d)` embeddings of the first view.
    v: `(n, d)` embeddings of the second view, row by row.
    normalize: L2-normalize rows; a zero row stays zero and has zero gradient.
      The paper's rows have a norm of their own: False is its form, True our default as in the other losses.
    where: `(n,)` booleans, the rows that count, as anchors and as negatives; None is all of them.
    reduction: "mean" over the images that count, or "none": `(n,)`, each image's mean over its two views, 0 where
      masked.
    tile_size: number of anchor rows whose similarities are alive at once; None picks by size, n and more are the dense
      form. The result does not depend on it.
    matmul_dtype: round the factors of matrix products to this dtype (bfloat16, say), accumulating in float32; None
      does not round.
    axis_name: inside `shard_map`, the mesh axis over which the rows are sharded; negatives are then global.

  Returns:
    A scalar, or `(n,)`; inner products, at least float32. An image without negatives keeps its positive's term.

  Raises:
    TypeError: embeddings that are not floating-point, a mask that is not boolean.
    ValueError: shapes that do not fit, an unknown `reduction`.

  Example:
    >>> import jax.numpy as jnp
    >>> from spectral_jax import losses
    >>> print(f"{losses.spectral_contrastive(jnp.eye(4), jnp.eye(4)):.4f}")
    -2.0000

  Reference: HaoChen et al. 2021, arXiv 2106.04156.
  """
  views = _common.prepare_views(u, v, where=where, normalize=normalize, axis_name=axis_name)
  plan = _common.plan_for(len(views.u), tile_size, matmul_dtype, axis_name)
  rows = make_rows(
      jnp.concatenate([views.u, views.v]), jnp.tile(views.image, 2), jnp.tile(views.valid, 2), offset=0.0)
  squares = _engine.within(SQUARES, rows, plan).reshape(2, -1).mean(0)
  negatives = jnp.maximum(_common.count_negatives(views, axis_name), 1.0)
  values = squares / negatives - 2.0 * _common.dot_rows(views.u, views.v)
  return _common.reduce(values, views.valid, reduction, axis_name)
