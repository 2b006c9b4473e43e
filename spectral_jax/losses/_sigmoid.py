"""The sigmoid loss: every pair of the two views is a binary question of its own."""

from __future__ import annotations

from typing import TYPE_CHECKING

import jax

from spectral_jax import _arrays, _eager
from spectral_jax.losses import _common, _engine
from spectral_jax.losses._pairs import make_rows
from spectral_jax.losses._statistics import ScoreSum

if TYPE_CHECKING:
  from jax.typing import DTypeLike
  from jaxtyping import Array, ArrayLike, Bool, Float

  from spectral_jax._types import Reduction, Scalar

PAIRS = ScoreSum(jax.nn.softplus)


@_eager.compiled(*_common.SETTINGS, temperature=_arrays.positive, bias=_arrays.number)
def sigmoid(u: Float[ArrayLike, "n d"], v: Float[ArrayLike, "n d"], *, temperature: Scalar = 0.1, bias: Scalar = -10.0,
            normalize: bool = True, where: Bool[ArrayLike, " n"] | None = None, reduction: Reduction = "mean",
            tile_size: int | None = None, matmul_dtype: DTypeLike | None = None,
            axis_name: str | None = None) -> Float[Array, ""] | Float[Array, " n"]:
  """Sigmoid loss (SigLIP): is `v_j` the partner of `u_i`, or not? Asked of every pair, without a softmax.

  `l_i = sum_j -log sigmoid( y_ij (u_i.v_j/tau + bias) )`, with `y_ii = 1` and -1 for every other pair.

  Args:
    u: `(n, d)` embeddings of the anchors.
    v: `(n, d)` embeddings of their positives, row by row.
    temperature: tau, > 0, a number or a traced scalar that may be learned; 0.1, where the paper begins.
    bias: a number or a traced scalar that may be learned; -10, where the paper begins, so that the many negatives do
      not outweigh the positives at first.
    normalize: L2-normalize rows; a zero row stays zero and has zero gradient.
    where: `(n,)` booleans, the rows that count, as anchors and as negatives; None is all of them.
    reduction: "mean" over the anchors that count, or "none": `(n,)` values, 0 where masked.
    tile_size: number of anchor rows whose similarities are alive at once; None picks by size, n and more are the dense
      form. The result does not depend on it.
    matmul_dtype: round the factors of matrix products to this dtype (bfloat16, say), accumulating in float32; None
      does not round.
    axis_name: inside `shard_map`, the mesh axis over which the rows are sharded; negatives are then global.

  Returns:
    A scalar, or `(n,)`; nats, at least float32. An anchor without negatives keeps its positive's term.

  Raises:
    TypeError: embeddings that are not floating-point, a mask that is not boolean.
    ValueError: shapes that do not fit, `temperature <= 0`, a bias that is not finite, an unknown `reduction`.

  Example:
    >>> import jax.numpy as jnp
    >>> from spectral_jax import losses
    >>> print(f"{losses.sigmoid(jnp.eye(4), jnp.eye(4), temperature=1.0, bias=0.0):.4f}")
    2.3927

  Reference: Zhai et al. 2023, arXiv 2303.15343.
  """
  views = _common.prepare_views(u, v, where=where, normalize=normalize, axis_name=axis_name)
  root = _common.inverse_root(temperature, views.u.dtype)
  _arrays.number("bias", bias)
  plan = _common.plan_for(len(views.u), tile_size, matmul_dtype, axis_name)
  rows = make_rows(views.u * root, views.image, views.valid, offset=bias)
  cols = make_rows(views.v * root, views.image, views.valid, offset=0.0)
  values = _engine.across(PAIRS, rows, cols, plan) + jax.nn.softplus(-_common.dot_rows(rows.x, cols.x) - bias)
  return _common.reduce(values, views.valid, reduction, axis_name)
