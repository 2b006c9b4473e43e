"""NT-Xent whose negatives are corrected: for those that are positives in truth, and toward those that are hard.

A negative is drawn from all images, so a share `prior` of them has the anchor's class. The debiased loss subtracts what
these are expected to add. The hard-negative loss moreover weights negatives by `exp(beta s)`, s their logit.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import jax.numpy as jnp

from spectral_jax import _arrays, _eager
from spectral_jax.losses import _common, _softmax

if TYPE_CHECKING:
  from jax.typing import DTypeLike
  from jaxtyping import Array, ArrayLike, Bool, Float

  from spectral_jax._types import Reduction, Scalar


def _prior(name, x):
  return _arrays.number(name, x, 0.0, 1.0)


def _beta(name, x):
  return _arrays.number(name, x, 0.0)


@_eager.compiled(*_common.SETTINGS, temperature=_arrays.positive, prior=_prior)
def debiased(u: Float[ArrayLike, "n d"], v: Float[ArrayLike, "n d"], *, temperature: Scalar = 0.5, prior: Scalar = 0.1,
             normalize: bool = True, where: Bool[ArrayLike, " n"] | None = None, reduction: Reduction = "mean",
             tile_size: int | None = None, matmul_dtype: DTypeLike | None = None,
             axis_name: str | None = None) -> Float[Array, ""] | Float[Array, " n"]:
  """Debiased contrastive loss: NT-Xent less what false negatives are expected to add to its denominator.

  `l_i = -s_i + log( exp(s_i) + G_i )`, `s_i = u_i.v_i/tau` and, over the N = 2n-2 rows z of both views that are not of
  image i, `G_i = max{ (sum_j exp(u_i.z_j/tau) - N prior exp(s_i)) / (1 - prior), N exp(-1/tau) }`; averaged with u and
  v exchanged. The maximum is the least that unit rows can have. With `prior = 0` it is NT-Xent.

  Args:
    u: `(n, d)` embeddings of the first view.
    v: `(n, d)` embeddings of the second view, row by row.
    temperature: tau, > 0, a number or a traced scalar; 0.5 as in the paper's experiments.
    prior: probability in [0, 1) that a negative has the anchor's class, a number or a traced scalar; 0.1, as for ten
      classes of equal size.
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
    A scalar, or `(n,)`; nats, at least float32. An image without negatives has loss 0.

  Raises:
    TypeError: embeddings that are not floating-point, a mask that is not boolean.
    ValueError: shapes that do not fit, `temperature <= 0`, a prior outside [0, 1), an unknown `reduction`.

  Example:
    >>> import jax.numpy as jnp
    >>> from spectral_jax import losses
    >>> print(f"{losses.debiased(jnp.eye(4), jnp.eye(4), temperature=1.0, prior=0.1):.4f}")
    1.0246

  Reference: Chuang et al. 2020, arXiv 2007.00224, with one positive.
  """
  return _corrected(u, v, temperature, prior, None, normalize, where, reduction, tile_size, matmul_dtype, axis_name)


@_eager.compiled(*_common.SETTINGS, temperature=_arrays.positive, beta=_beta, prior=_prior)
def hard_negative(u: Float[ArrayLike, "n d"], v: Float[ArrayLike, "n d"], *, temperature: Scalar = 0.5,
                  beta: Scalar = 1.0, prior: Scalar = 0.0, normalize: bool = True,
                  where: Bool[ArrayLike, " n"] | None = None, reduction: Reduction = "mean",
                  tile_size: int | None = None, matmul_dtype: DTypeLike | None = None,
                  axis_name: str | None = None) -> Float[Array, ""] | Float[Array, " n"]:
  """Hard-negative contrastive loss: negatives weighted by their similarity, and debiased.

  As `debiased`, with `N sum_j w_j exp(u_i.z_j/tau)` in place of the sum, `w_j = exp(beta u_i.z_j/tau) / sum_k
  exp(beta u_i.z_k/tau)`: an expectation under the distribution of negatives tilted toward hard ones. With `beta =
  0` it is `debiased`, with `prior = 0` too NT-Xent.

  Args:
    u: `(n, d)` embeddings of the first view.
    v: `(n, d)` embeddings of the second view, row by row.
    temperature: tau, > 0, a number or a traced scalar; 0.5 as in the paper's experiments.
    beta: hardness, >= 0, a number or a traced scalar; 1 as in the paper's experiments. Its derivative at 0 is taken as
      0.
    prior: probability in [0, 1) that a negative has the anchor's class, a number or a traced scalar; 0 does not debias
      (the paper's experiments take 0.1 for ten classes).
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
    A scalar, or `(n,)`; nats, at least float32. An image without negatives has loss 0.

  Raises:
    TypeError: embeddings that are not floating-point, a mask that is not boolean.
    ValueError: shapes that do not fit, `temperature <= 0`, `beta < 0`, a prior outside [0, 1), an unknown `reduction`.

  Example:
    >>> import jax.numpy as jnp
    >>> from spectral_jax import losses
    >>> print(f"{losses.hard_negative(jnp.eye(4), jnp.eye(4), temperature=1.0):.4f}")
    1.1654

  Reference: Robinson et al. 2021, arXiv 2010.04592.
  """
  return _corrected(u, v, temperature, prior, beta, normalize, where, reduction, tile_size, matmul_dtype, axis_name)


def _corrected(u, v, temperature, prior, beta, normalize, where, reduction, tile_size, matmul_dtype, axis_name):
  """Both losses; `beta=None` is 0, known beforehand."""
  views = _common.prepare_views(u, v, where=where, normalize=normalize, axis_name=axis_name)
  dtype = views.u.dtype
  root = _common.inverse_root(temperature, dtype)
  prior = jnp.asarray(_prior("prior", prior)).astype(dtype)
  plan = _common.plan_for(len(views.u), tile_size, matmul_dtype, axis_name)
  log_count = jnp.log(jnp.maximum(_common.count_negatives(views, axis_name), 1.0))

  def log_sums(factor):
    """`log sum_j exp(factor u_i.z_j/tau)` over the negatives."""
    return _softmax.both_views(views, root * _safe_root(factor), views.image, plan)[0]

  if beta is None:
    energies = log_sums(jnp.ones((), dtype))
    some = energies != -jnp.inf
  else:
    beta = jnp.asarray(_beta("beta", beta)).astype(dtype)
    tilted, weights = log_sums(1.0 + beta), log_sums(beta)
    some = tilted != -jnp.inf
    energies = log_count + jnp.where(some, tilted, 0.0) - jnp.where(some, weights, 0.0)
  positive = _common.dot_rows(views.u * root, views.v * root)
  least = log_count - root * root  # log N - 1/tau
  energies = debias(jnp.where(some, energies, 0.0), positive + log_count, prior, least)
  values = _softmax.with_positive(jnp.where(some, energies, -jnp.inf), positive).mean(0)
  return _common.reduce(values, views.valid, reduction, axis_name)


def _safe_root(x):
  """`sqrt(x)` with slope 0, not infinity, at 0."""
  above = x > 0
  return jnp.where(above, jnp.sqrt(jnp.where(above, x, 1.0)), 0.0)


def debias(energy, positive, prior, least):
  """`log max{ (e^energy - prior e^positive) / (1 - prior), e^least }`, or the energy itself where the prior is 0."""
  biased = prior > 0
  gap = energy - positive - jnp.log(jnp.where(biased, prior, 1.0))
  above = ~(gap <= 0)  # NaN stays NaN
  gap = jnp.where(above, gap, 1.0)
  # log(1 - e^-gap), each form where it is exact
  near = gap < 0.7
  log_rest = jnp.where(near, jnp.log(-jnp.expm1(-jnp.where(near, gap, 1.0))), jnp.log1p(-jnp.exp(-gap)))
  corrected = jnp.where(above, jnp.maximum(energy + log_rest - jnp.log1p(-prior), least), least)
  return jnp.where(biased, corrected, energy)
