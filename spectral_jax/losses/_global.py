"""The global contrastive objective: each anchor's denominator is over the whole data set, kept as a moving average.

The loss over all data is `mean_i log g_i`, `g_i` the mean of `exp((u_i.z - u_i.v_i)/tau)` over all negatives z. A batch
knows an estimate of `g_i` only, and the logarithm of an estimate is biased: the smaller the batch, the more. So every
example remembers a moving average of its estimates, and the gradient divides by that.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import jax.numpy as jnp
from jax import lax

from spectral_jax import _arrays, _eager
from spectral_jax.losses import _common, _engine, _softmax
from spectral_jax.losses._pairs import make_rows

if TYPE_CHECKING:
  from typing import Literal

  from jax.typing import DTypeLike
  from jaxtyping import Array, ArrayLike, Bool, Float

  from spectral_jax._types import Reduction, Scalar


def _share(name, x):
  value = _arrays.concrete(_arrays.positive(name, x))
  if value is not None and value > 1:
    raise ValueError(f"{name} must lie in (0, 1], got {value}; 1 keeps nothing of earlier batches")
  return x


@_eager.compiled("negatives", *_common.SETTINGS, temperature=_arrays.positive, gamma=_share)
def global_contrastive(
    u: Float[ArrayLike, "n d"], v: Float[ArrayLike, "n d"], log_average: Float[ArrayLike, "n 2"], *,
    gamma: Scalar = 0.9, temperature: Scalar = 0.1, negatives: Literal["both", "across"] = "both",
    normalize: bool = True, where: Bool[ArrayLike, " n"] | None = None, reduction: Reduction = "mean",
    tile_size: int | None = None, matmul_dtype: DTypeLike | None = None,
    axis_name: str | None = None) -> tuple[Float[Array, ""] | Float[Array, " n"], Float[Array, "n 2"]]:
  """Global contrastive loss (SogCLR): a batch's gradient with denominators that remember earlier batches.

  For anchor i with negatives z_1..z_N in the batch, `g_i = (1/N) sum_j exp((u_i.z_j - u_i.v_i)/tau)` and
  `a_i <- (1 - gamma) a_i + gamma g_i`. The value is `mean_i log a_i`, its gradient `mean_i (grad g_i) / a_i`; averaged
  with u and v exchanged, each direction with averages of its own. With `gamma = 1` it is the batch's own loss,
  `mean_i log g_i`: `dcl` less `log N` for `negatives="both"`.

  Args:
    u: `(n, d)` embeddings of the first view.
    v: `(n, d)` embeddings of the second view, row by row.
    log_average: `(n, 2)`, `log a` of the batch's examples before this batch, of the anchors u and of the anchors v;
      -inf for an example that was never seen, which takes its first estimate whole. Not differentiated through.
    gamma: weight of the batch's estimate, in (0, 1], a number or a traced scalar (FastCLIP lowers it from 1 in the
      course of training); 0.9 as in the authors' code.
    temperature: tau, > 0, a number or a traced scalar; 0.1 as in SogCLR's experiments.
    negatives: "both" views' 2n-2 rows (images), or "across": the other view's n-1 (two modalities).
    normalize: L2-normalize rows; a zero row stays zero and has zero gradient.
    where: `(n,)` booleans, the rows that count, as anchors and as negatives; None is all of them.
    reduction: "mean" over the images that count, or "none": `(n,)`, each image's mean over its two views, 0 where
      masked.
    tile_size: number of anchor rows whose similarities are alive at once; None picks by size, n and more are the dense
      form. The result does not depend on it.
    matmul_dtype: round the factors of matrix products to this dtype (bfloat16, say), accumulating in float32; None
      does not round.
    axis_name: inside `shard_map`, the mesh axis over which the rows are sharded; negatives are then global.

  Returns:
    `(loss, log_average)`: a scalar, or `(n,)`, in nats; and the new averages `(n, 2)`, those of masked rows and of rows
    without negatives as they were. Such rows have value 0 and are left out of the mean. At least float32.

  Raises:
    TypeError: embeddings or averages that are not floating-point, a mask that is not boolean.
    ValueError: shapes that do not fit, `temperature <= 0`, `gamma` outside (0, 1], an unknown `negatives` or
      `reduction`.

  Example:
    >>> import jax.numpy as jnp
    >>> from spectral_jax import losses
    >>> memory = jnp.full((100, 2), -jnp.inf)  # one row per example of the data set
    >>> index = jnp.arange(4)  # the batch
    >>> loss, rows = losses.global_contrastive(jnp.eye(4), jnp.eye(4), memory[index], temperature=1.0)
    >>> memory = memory.at[index].set(rows)
    >>> print(f"{loss:.4f}")
    -1.0000

  References: Yuan et al. 2022, arXiv 2202.12387 (SogCLR); Wei et al. 2024, arXiv 2407.01445 (FastCLIP).
  """
  _arrays.choice("negatives", negatives, ("both", "across"))
  views = _common.prepare_views(u, v, where=where, normalize=normalize, axis_name=axis_name)
  n, dtype = len(views.u), views.u.dtype
  old = _arrays.as_float("log_average", log_average)
  if old.shape != (n, 2):
    raise ValueError(f"log_average must have shape ({n}, 2), one row per pair and a column per direction, got "
                     f"{old.shape}")
  old = lax.stop_gradient(old.T).astype(dtype)
  gamma = jnp.asarray(_share("gamma", gamma)).astype(dtype)
  root = _common.inverse_root(temperature, dtype)
  plan = _common.plan_for(n, tile_size, matmul_dtype, axis_name)
  positive = _common.dot_rows(views.u * root, views.v * root)
  if negatives == "both":
    energies, _ = _softmax.both_views(views, root, views.image, plan)
  else:
    rows, cols = (make_rows(x * root, views.image, views.valid) for x in (views.u, views.v))
    energies = jnp.stack(_engine.across(_softmax.LSE, rows, cols, plan, columns=True))
  count = _common.count_negatives(views, axis_name) * (1.0 if negatives == "both" else 0.5)
  estimate = _softmax.without_positive(energies, positive) - jnp.log(jnp.maximum(count, 1.0))
  counted = views.valid & _softmax.has_term(energies, positive)

  fresh = lax.stop_gradient(estimate)
  # No power of a small number: the averages themselves could leave the range of floats at a small temperature.
  kept = jnp.where(gamma < 1, jnp.log1p(-jnp.where(gamma < 1, gamma, 0.0)), -jnp.inf)
  new = jnp.where(old == -jnp.inf, fresh, jnp.logaddexp(kept + old, jnp.log(gamma) + fresh))
  # g / a, at most 1 / gamma: it has the gradient that the objective asks for, while the value is that of log a.
  ratio = jnp.exp(estimate - lax.stop_gradient(new))
  values = lax.stop_gradient(new) + ratio - lax.stop_gradient(ratio)
  loss = _common.reduce(values.mean(0), counted[0], reduction, axis_name)
  return loss, jnp.where(counted, lax.stop_gradient(new), old).T
