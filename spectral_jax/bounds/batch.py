"""Bands of a whole batch: the mean over anchors of the squared gradient norm, InfoNCE."""

from __future__ import annotations

from typing import TYPE_CHECKING

import jax
import jax.numpy as jnp

from spectral_jax import _anchors, _arrays, _eager
from spectral_jax.bounds.anchors import plugin_band
from spectral_jax.bounds.band import LEADING, Band, product, root, shared, slack_of

if TYPE_CHECKING:
  from typing import Literal

  from jaxtyping import Array, ArrayLike, Float

  from spectral_jax._types import Scalar


@_eager.compiled("kind", temperature=_arrays.positive_or_none)
def batch_band(u: Float[ArrayLike, "n d"], v: Float[ArrayLike, "n d"], *, temperature: Scalar | None = None,
               kind: Literal["anchors", "singular"] = "anchors") -> Band:
  """Mean over anchors of the squared gradient norm, between two proved bounds (InfoNCE).

  `anchors` averages the anchors' plug-in bands and caps them with the anisotropy form
  `mean_i ||g_i||^2 <= l_1 ||R||_F^2 / (n tau^2)`. `singular` is von Neumann's form, which costs a singular value
  decomposition of an n x n matrix: with `R = P - I` (rows of the softmax minus the positives), its singular values
  `s_1 >= s_2 >= ...` and the eigenvalues `l_1 >= l_2 >= ...` of the centered Gram matrix of V,

      (1/(n tau^2)) sum_k l_k s_{n+1-k}^2 <= mean_i ||g_i||^2 <= (1/(n tau^2)) sum_k l_k s_k^2.

  Args:
    u, v: `(n, d)` anchors and positives; rows are L2-normalized inside.
    temperature: tau > 0; None (default) is the default of `losses.info_nce`, 0.1.
    kind: `"anchors"` (default; linear memory) or `"singular"`.

  Returns:
    `Band` of scalars, squared norms; zeros for a single pair, which has no negative.

  Raises:
    TypeError, ValueError: as `anchor_band`.

  >>> import jax
  >>> u, v = jax.random.normal(jax.random.key(0), (2, 32, 8))
  >>> band = batch_band(u, v, temperature=0.5)
  >>> bool(band.lower <= band.value <= band.upper)
  True

  Reference: docs/theory.md, section 3.
  """
  _arrays.choice("kind", kind, ("anchors", "singular"))
  if kind == "singular":
    return _singular(u, v, temperature)
  return batch_report(u, v, temperature=temperature)[0]


def batch_report(u: Float[ArrayLike, "n d"], v: Float[ArrayLike, "n d"], *,
                 temperature: Scalar | None = None) -> tuple[Band, Float[Array, " n"], Float[Array, " n"]]:
  """The batch band and every anchor's strength and effective number of negatives, from one pass over the anchors.

  Returns:
    `(Band of scalars, repulsion (n,), effective_negatives (n,))`.
  """
  p = _anchors.problem(u, v, loss="info_nce", temperature=temperature)
  common = shared(p.bank, LEADING)

  def report(anchor):
    return plugin_band(anchor, common), anchor.repulsion, _anchors.effective_negatives(anchor)

  bands, repulsion, effective = _anchors.map_anchors(report, p)
  # One sum for all three, so that the means are rounded alike and keep the order of what they average.
  lower, value, upper = jnp.mean(jnp.stack(bands), axis=1)
  # Rows of R: ||R_i||^2 = q^2 (sum w^2 + 1), and repulsion = q / tau.
  anisotropic = common.top * jnp.sum(repulsion ** 2 * (1 + 1 / jnp.maximum(effective, 1)))
  # Gradients that are wrong by at most their slacks change the root of their mean square by at most the slacks'.
  slack = jnp.sqrt(jnp.mean(slack_of(2 * repulsion, value.dtype) ** 2))
  return Band(lower, value, jnp.minimum(upper, rounded_up(anisotropic, slack, len(repulsion)))), repulsion, effective


def rounded_up(square: Float[Array, ""], slack: Float[Array, ""], count: int) -> Float[Array, ""]:
  """`square`, a sum of `count` numbers above 0, made safe: its own rounding, and that of vectors wrong by `slack`."""
  return (jnp.sqrt(square * (1 + (count + 16) * jnp.finfo(square.dtype).eps)) + slack) ** 2


def _singular(u, v, temperature):
  p = _anchors.problem(u, v, loss="info_nce", temperature=temperature)
  n, d = p.v.shape
  logits = product(p.u, p.v.T) * p.scale
  others = jnp.where(jnp.eye(n, dtype=bool), 0.0, jnp.exp(logits - jax.nn.logsumexp(logits, axis=1, keepdims=True)))
  q = jnp.sum(others, axis=1)
  residual = others - jnp.diag(q)  # 1 - p_positive without cancellation
  g = product(residual, p.v) * p.scale
  centered = p.v - jnp.mean(p.v, axis=0)
  # Roots are multiplied, then squared: squares of a residual that has all but vanished would be flushed to 0.
  roots = jnp.zeros(n, p.u.dtype).at[:min(n, d)].set(jnp.linalg.svd(centered, compute_uv=False)) / jnp.sqrt(n)
  singular = jnp.linalg.svd(residual, compute_uv=False) * p.scale
  lower, upper = jnp.sum((roots * singular[::-1]) ** 2), jnp.sum((roots * singular) ** 2)
  # Rounding of either spectrum is relative to its greatest value.
  spectral = 16 * jnp.finfo(p.u.dtype).eps * jnp.sum((roots * singular[0]) ** 2)
  slack = jnp.sqrt(jnp.mean(slack_of(2 * q * p.scale, p.u.dtype) ** 2))  # of g
  lower = jnp.maximum(root(lower - spectral) - slack, 0.0) ** 2
  return Band(lower, jnp.mean(jnp.sum(g * g, axis=-1)), rounded_up(upper + spectral, slack, n))
