"""The softmax losses that differ only in which pairs are negatives.

Notation, that of the papers: `u_i` and `v_i` are the two views' embeddings of image i, unit rows; `tau` is the
temperature; `s^+_i = u_i . v_i / tau` its logit with the positive; `E_i = log sum exp` over those with its negatives.
Then InfoNCE and NT-Xent are `softplus(E_i - s^+_i)`, exact down to losses of 1e-30, and DCL and DHEL `E_i - s^+_i`.
An anchor that has no negatives has `E_i = -inf`: each docstring says what its loss is then.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import jax
import jax.numpy as jnp

from spectral_jax import _arrays, _eager
from spectral_jax.losses import _common, _engine
from spectral_jax.losses._pairs import make_rows
from spectral_jax.losses._statistics import LogSumExp

if TYPE_CHECKING:
  from typing import Literal

  from jax.typing import DTypeLike
  from jaxtyping import Array, ArrayLike, Bool, Float

  from spectral_jax._types import Reduction, Scalar

LSE = LogSumExp()


def with_positive(energy, positive):
  """`-s^+ + log(e^{s^+} + e^E)`: the positive stands in the denominator; 0 without negatives."""
  some = energy != -jnp.inf
  return jnp.where(some, jax.nn.softplus(jnp.where(some, energy, 0.0) - positive), _zero_or_nan(positive))


def without_positive(energy, positive):
  """`-s^+ + E`: the positive is left out of the denominator; 0 without negatives."""
  some = energy != -jnp.inf
  return jnp.where(some, jnp.where(some, energy, 0.0) - positive, _zero_or_nan(positive))


def _zero_or_nan(positive):
  """What an anchor without negatives is worth: 0, but NaN where its embeddings are."""
  return jnp.where(jnp.isnan(positive), positive, 0.0)


def has_term(energy, positive):
  """Whether a loss without the positive in the denominator is defined; an anchor of NaN is not left out of the mean."""
  return (energy != -jnp.inf) | jnp.isnan(positive)


def both_views(views, root, group, plan):
  """Energies of the 2n anchors over both views' rows of another group, `(2, n)`, and the positive logits `(n,)`.

  Groups are those of the images: a row never meets its positive, which `with_positive` puts back where it belongs.
  """
  z = jnp.concatenate([views.u, views.v]) * root
  rows = make_rows(z, jnp.tile(group, 2), jnp.tile(views.valid, 2))
  energies = _engine.within(LSE, rows, plan).reshape(2, -1)
  return energies, _common.dot_rows(views.u * root, views.v * root)


@_eager.compiled("symmetric", *_common.SETTINGS, temperature=_arrays.positive)
def info_nce(u: Float[ArrayLike, "n d"], v: Float[ArrayLike, "n d"], *, temperature: Scalar = 0.1,
             negatives: Float[ArrayLike, "k d"] | None = None, symmetric: bool = False, normalize: bool = True,
             where: Bool[ArrayLike, " n"] | None = None, reduction: Reduction = "mean", tile_size: int | None = None,
             matmul_dtype: DTypeLike | None = None,
             axis_name: str | None = None) -> Float[Array, ""] | Float[Array, " n"]:
  """InfoNCE across views: each `u_i` picks its `v_i` among all rows of `v`, and of a queue.

  `l_i = -u_i.v_i/tau + log( sum_{j=1..n} exp(u_i.v_j/tau) + sum_{q=1..k} exp(u_i.negatives_q/tau) )`

  Args:
    u: `(n, d)` embeddings of the anchors.
    v: `(n, d)` embeddings of their positives, row by row.
    temperature: tau, > 0, a number or a traced scalar; 0.1 as in van den Oord's followers with normalized rows
      (SimCLR, arXiv 2002.05709, table 5).
    negatives: `(k, d)` further negatives that every anchor sees, such as a queue; not differentiated through unless
      they depend on the variables.
    symmetric: average with the loss in which u and v are exchanged (CLIP, arXiv 2103.00020).
    normalize: L2-normalize rows; a zero row stays zero and has zero gradient.
    where: `(n,)` booleans, the rows that count, as anchors and as negatives; None is all of them.
    reduction: "mean" over the anchors that count, or "none": `(n,)` values, 0 where masked.
    tile_size: number of anchor rows whose similarities are alive at once; None picks by size, n and more are the dense
      form. The result does not depend on it.
    matmul_dtype: round the factors of matrix products to this dtype (bfloat16, say), accumulating in float32; None
      does not round.
    axis_name: inside `shard_map`, the mesh axis over which the rows are sharded; negatives are then global.

  Returns:
    A scalar, or `(n,)`; nats, at least float32. An anchor without negatives has loss 0.

  Raises:
    TypeError: embeddings that are not floating-point, a mask that is not boolean.
    ValueError: shapes that do not fit, `temperature <= 0`, an unknown `reduction`.

  Example:
    >>> import jax.numpy as jnp
    >>> from spectral_jax import losses
    >>> print(f"{losses.info_nce(jnp.eye(4), jnp.eye(4), temperature=1.0):.4f}")
    0.7437

  Reference: van den Oord et al. 2018, arXiv 1807.03748; queue: He et al. 2020, arXiv 1911.05722.
  """
  views = _common.prepare_views(u, v, where=where, normalize=normalize, axis_name=axis_name)
  root = _common.inverse_root(temperature, views.u.dtype)
  plan = _common.plan_for(len(views.u), tile_size, matmul_dtype, axis_name)
  rows, cols = (make_rows(x * root, views.image, views.valid) for x in (views.u, views.v))
  energies = _engine.across(LSE, rows, cols, plan, columns=symmetric)
  energies = energies if symmetric else (energies,)
  if negatives is not None:
    queue = _queue(negatives, views.u, normalize) * root
    beyond = jnp.full(queue.shape[:1], -1, jnp.int32)  # a group that no image has: every anchor sees all of the queue
    queue = make_rows(queue, beyond, jnp.ones(queue.shape[:1], bool))
    energies = tuple(_log_add(energy, _engine.across(LSE, anchors, queue, plan))
                     for energy, anchors in zip(energies, (rows, cols)))
  positive = _common.dot_rows(rows.x, cols.x)
  values = sum(with_positive(energy, positive) for energy in energies) / len(energies)
  return _common.reduce(values, views.valid, reduction, axis_name)


def _log_add(a, b):
  """`log(e^a + e^b)`, with zero derivatives, not NaN, where both are -inf."""
  some = (a != -jnp.inf) | (b != -jnp.inf)
  return jnp.where(some, jnp.logaddexp(jnp.where(some, a, 0.0), jnp.where(some, b, 0.0)), -jnp.inf)


def _queue(negatives, u, normalize):
  queue = _arrays.matrix("negatives", negatives).astype(u.dtype)
  if queue.shape[1] != u.shape[1]:
    raise ValueError(f"negatives must have shape (k, {u.shape[1]}), as many columns as u, got {queue.shape}")
  return _arrays.unit_rows(queue) if normalize else _common.nan_rows(queue)


@_eager.compiled(*_common.SETTINGS, temperature=_arrays.positive)
def nt_xent(u: Float[ArrayLike, "n d"], v: Float[ArrayLike, "n d"], *, temperature: Scalar = 0.5,
            normalize: bool = True, where: Bool[ArrayLike, " n"] | None = None, reduction: Reduction = "mean",
            tile_size: int | None = None, matmul_dtype: DTypeLike | None = None,
            axis_name: str | None = None) -> Float[Array, ""] | Float[Array, " n"]:
  """NT-Xent, SimCLR's loss: 2n anchors, each with 2n-2 negatives from both views.

  `l_i = -u_i.v_i/tau + log( sum_j exp(u_i.v_j/tau) + sum_{j!=i} exp(u_i.u_j/tau) )`, averaged with u and v exchanged.

  Args:
    u: `(n, d)` embeddings of the first view.
    v: `(n, d)` embeddings of the second view, row by row.
    temperature: tau, > 0, a number or a traced scalar; 0.5 is SimCLR's choice for CIFAR-10 (appendix B.9).
    normalize: L2-normalize rows; a zero row stays zero and has zero gradient.
    where: `(n,)` booleans, the rows that count, as anchors and as negatives; None is all of them.
    reduction: "mean" over the images that count, or "none": `(n,)`, the mean over an image's two views, 0 where masked.
    tile_size: number of anchor rows whose similarities are alive at once; None picks by size, n and more are the dense
      form. The result does not depend on it.
    matmul_dtype: round the factors of matrix products to this dtype (bfloat16, say), accumulating in float32; None
      does not round.
    axis_name: inside `shard_map`, the mesh axis over which the rows are sharded; negatives are then global.

  Returns:
    A scalar, or `(n,)`; nats, at least float32. An image without negatives has loss 0.

  Raises:
    TypeError: embeddings that are not floating-point, a mask that is not boolean.
    ValueError: shapes that do not fit, `temperature <= 0`, an unknown `reduction`.

  Example:
    >>> import jax.numpy as jnp
    >>> from spectral_jax import losses
    >>> print(f"{losses.nt_xent(jnp.eye(4), jnp.eye(4), temperature=1.0):.4f}")
    1.1654

  Reference: Chen et al. 2020, arXiv 2002.05709.
  """
  views = _common.prepare_views(u, v, where=where, normalize=normalize, axis_name=axis_name)
  root = _common.inverse_root(temperature, views.u.dtype)
  plan = _common.plan_for(len(views.u), tile_size, matmul_dtype, axis_name)
  energies, positive = both_views(views, root, views.image, plan)
  values = with_positive(energies, positive).mean(0)
  return _common.reduce(values, views.valid, reduction, axis_name)


@_eager.compiled(*_common.SETTINGS, temperature=_arrays.positive)
def dcl(u: Float[ArrayLike, "n d"], v: Float[ArrayLike, "n d"], *, temperature: Scalar = 0.1, normalize: bool = True,
        where: Bool[ArrayLike, " n"] | None = None, reduction: Reduction = "mean", tile_size: int | None = None,
        matmul_dtype: DTypeLike | None = None, axis_name: str | None = None) -> Float[Array, ""] | Float[Array, " n"]:
  """Decoupled contrastive loss: NT-Xent without the positive in the denominator.

  `l_i = -u_i.v_i/tau + log( sum_{j!=i} exp(u_i.v_j/tau) + sum_{j!=i} exp(u_i.u_j/tau) )`, averaged with u and v
  exchanged.

  Args:
    u: `(n, d)` embeddings of the first view.
    v: `(n, d)` embeddings of the second view, row by row.
    temperature: tau, > 0, a number or a traced scalar; 0.1 is the paper's default.
    normalize: L2-normalize rows; a zero row stays zero and has zero gradient.
    where: `(n,)` booleans, the rows that count, as anchors and as negatives; None is all of them.
    reduction: "mean" over the images that count, or "none": `(n,)`, the mean over an image's two views, 0 where masked.
    tile_size: number of anchor rows whose similarities are alive at once; None picks by size, n and more are the dense
      form. The result does not depend on it.
    matmul_dtype: round the factors of matrix products to this dtype (bfloat16, say), accumulating in float32; None
      does not round.
    axis_name: inside `shard_map`, the mesh axis over which the rows are sharded; negatives are then global.

  Returns:
    A scalar, or `(n,)`; nats, at least float32. An image without negatives has value 0 and is left out of the mean.

  Raises:
    TypeError: embeddings that are not floating-point, a mask that is not boolean.
    ValueError: shapes that do not fit, `temperature <= 0`, an unknown `reduction`.

  Example:
    >>> import jax.numpy as jnp
    >>> from spectral_jax import losses
    >>> print(f"{losses.dcl(jnp.eye(4), jnp.eye(4), temperature=1.0):.4f}")
    0.7918

  Reference: Yeh et al. 2022, arXiv 2110.06848.
  """
  views = _common.prepare_views(u, v, where=where, normalize=normalize, axis_name=axis_name)
  root = _common.inverse_root(temperature, views.u.dtype)
  plan = _common.plan_for(len(views.u), tile_size, matmul_dtype, axis_name)
  energies, positive = both_views(views, root, views.image, plan)
  values = without_positive(energies, positive).mean(0)
  return _common.reduce(values, views.valid & has_term(energies[0], positive), reduction, axis_name)


@_eager.compiled("energy", *_common.SETTINGS, temperature=_arrays.positive)
def dhel(u: Float[ArrayLike, "n d"], v: Float[ArrayLike, "n d"], *, temperature: Scalar = 0.3,
         energy: Literal["anchor", "mean", "sum"] = "mean", normalize: bool = True,
         where: Bool[ArrayLike, " n"] | None = None, reduction: Reduction = "mean", tile_size: int | None = None,
         matmul_dtype: DTypeLike | None = None, axis_name: str | None = None) -> Float[Array, ""] | Float[Array, " n"]:
  """Decoupled hyperspherical energy loss: the negatives of a view are that view's other rows, and only those.

  `l_i = -u_i.v_i/tau + E_i`, with `S^U_i = sum_{j!=i} exp(u_i.u_j/tau)` and `E_i` by `energy`:
  "anchor" `log S^U_i` (the paper), "mean" `(log S^U_i + log S^V_i)/2`, "sum" `log S^U_i + log S^V_i` (the code).

  Args:
    u: `(n, d)` embeddings of the first view.
    v: `(n, d)` embeddings of the second view, row by row.
    temperature: tau, > 0, a number or a traced scalar; 0.3 as in the paper's experiments.
    energy: "anchor", "mean" or "sum". "mean" is "anchor" averaged with u and v exchanged; "sum" weights uniformity
      twice as much against alignment.
    normalize: L2-normalize rows; a zero row stays zero and has zero gradient.
    where: `(n,)` booleans, the rows that count, as anchors and as negatives; None is all of them.
    reduction: "mean" over the anchors that count, or "none": `(n,)` values, 0 where masked.
    tile_size: number of anchor rows whose similarities are alive at once; None picks by size, n and more are the dense
      form. The result does not depend on it.
    matmul_dtype: round the factors of matrix products to this dtype (bfloat16, say), accumulating in float32; None
      does not round.
    axis_name: inside `shard_map`, the mesh axis over which the rows are sharded; negatives are then global.

  Returns:
    A scalar, or `(n,)`; nats, at least float32. An anchor without negatives has value 0 and is left out of the mean.

  Raises:
    TypeError: embeddings that are not floating-point, a mask that is not boolean.
    ValueError: shapes that do not fit, `temperature <= 0`, an unknown `reduction` or `energy`.

  Example:
    >>> import jax.numpy as jnp
    >>> from spectral_jax import losses
    >>> print(f"{losses.dhel(jnp.eye(4), jnp.eye(4), temperature=1.0):.4f}")
    0.0986

  Reference: Koromilas et al. 2024, arXiv 2405.18045.
  """
  _arrays.choice("energy", energy, ("anchor", "mean", "sum"))
  views = _common.prepare_views(u, v, where=where, normalize=normalize, axis_name=axis_name)
  root = _common.inverse_root(temperature, views.u.dtype)
  plan = _common.plan_for(len(views.u), tile_size, matmul_dtype, axis_name)
  rows = [make_rows(x * root, views.image, views.valid) for x in (views.u, views.v)]
  energies = jnp.stack([_engine.within(LSE, row, plan) for row in (rows[:1] if energy == "anchor" else rows)])
  total = energies.sum(0) if energy == "sum" else energies.mean(0)
  positive = _common.dot_rows(rows[0].x, rows[1].x)
  values = without_positive(total, positive)
  return _common.reduce(values, views.valid & has_term(total, positive), reduction, axis_name)
