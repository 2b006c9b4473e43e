"""Losses that know the classes: negatives of other classes only (NSCL), or positives of the same class (SupCon)."""

from __future__ import annotations

from typing import TYPE_CHECKING

import jax.numpy as jnp
from jax import lax

from spectral_jax import _arrays, _eager
from spectral_jax.losses import _common, _engine, _softmax
from spectral_jax.losses._pairs import make_rows

if TYPE_CHECKING:
  from jax.typing import DTypeLike
  from jaxtyping import Array, ArrayLike, Bool, Float, Int

  from spectral_jax._types import Reduction, Scalar


@_eager.compiled("positive_in_denominator", *_common.SETTINGS, temperature=_arrays.positive)
def nscl(u: Float[ArrayLike, "n d"], v: Float[ArrayLike, "n d"], labels: Int[ArrayLike, " n"], *,
         temperature: Scalar = 0.1, positive_in_denominator: bool = False, normalize: bool = True,
         where: Bool[ArrayLike, " n"] | None = None, reduction: Reduction = "mean", tile_size: int | None = None,
         matmul_dtype: DTypeLike | None = None, axis_name: str | None = None) -> Float[Array, ""] | Float[Array, " n"]:
  """Negatives-only supervised contrastive loss: the positive is the other view, the negatives are other classes' rows.

  `l_i = -u_i.v_i/tau + log sum_{j: y_j != y_i} ( exp(u_i.v_j/tau) + exp(u_i.u_j/tau) )`, averaged with u and v
  exchanged; `positive_in_denominator=True` adds `exp(u_i.v_i/tau)` inside the logarithm, as the authors run it.

  Args:
    u: `(n, d)` embeddings of the first view.
    v: `(n, d)` embeddings of the second view, row by row.
    labels: `(n,)` integers, the classes; any integers, they need not be 0..C-1.
    temperature: tau, > 0, a number or a traced scalar; 0.1.
    positive_in_denominator: see above.
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
    A scalar, or `(n,)`; nats, at least float32. An image without negatives has value 0; it is left out of the mean,
    unless the positive is in the denominator (its loss is then truly 0).

  Raises:
    TypeError: embeddings that are not floating-point, a mask that is not boolean, labels that are not integers.
    ValueError: shapes that do not fit, `temperature <= 0`, an unknown `reduction`.

  Example:
    >>> import jax.numpy as jnp
    >>> from spectral_jax import losses
    >>> labels = jnp.array([0, 0, 1, 1])
    >>> print(f"{losses.nscl(jnp.eye(4), jnp.eye(4), labels, temperature=1.0):.4f}")
    0.3863

  Reference: arXiv 2510.08852.
  """
  views = _common.prepare_views(u, v, where=where, normalize=normalize, axis_name=axis_name)
  labels = _arrays.labels_of(labels, views.u.shape[0])
  root = _common.inverse_root(temperature, views.u.dtype)
  plan = _common.plan_for(len(views.u), tile_size, matmul_dtype, axis_name)
  energies, positive = _softmax.both_views(views, root, labels, plan)
  if positive_in_denominator:
    return _common.reduce(_softmax.with_positive(energies, positive).mean(0), views.valid, reduction, axis_name)
  values = _softmax.without_positive(energies, positive).mean(0)
  return _common.reduce(values, views.valid & _softmax.has_term(energies[0], positive), reduction, axis_name)


@_eager.compiled(*_common.SETTINGS, temperature=_arrays.positive)
def supcon(u: Float[ArrayLike, "n d"], v: Float[ArrayLike, "n d"], labels: Int[ArrayLike, " n"], *,
           temperature: Scalar = 0.1, normalize: bool = True, where: Bool[ArrayLike, " n"] | None = None,
           reduction: Reduction = "mean", tile_size: int | None = None, matmul_dtype: DTypeLike | None = None,
           axis_name: str | None = None) -> Float[Array, ""] | Float[Array, " n"]:
  """Supervised contrastive loss, `L_out`: every row of the same class is a positive, averaged outside the logarithm.

  Over the 2n rows z of both views, `l_i = -1/|P(i)| sum_{p in P(i)} z_i.z_p/tau + log sum_{a != i} exp(z_i.z_a/tau)`,
  `P(i)` the other rows of i's class; an image's value is the mean of its two rows'.

  Args:
    u: `(n, d)` embeddings of the first view.
    v: `(n, d)` embeddings of the second view, row by row.
    labels: `(n,)` integers, the classes; any integers.
    temperature: tau, > 0, a number or a traced scalar; 0.1 as in the paper.
    normalize: L2-normalize rows; a zero row stays zero and has zero gradient.
    where: `(n,)` booleans, the rows that count, as anchors and as negatives; None is all of them.
    reduction: "mean" over the images that count, or "none": `(n,)`, each image's mean over its two views, 0 where
      masked.
    tile_size: number of anchor rows whose similarities are alive at once; None picks by size, n and more are the dense
      form. The result does not depend on it.
    matmul_dtype: round the factors of matrix products to this dtype (bfloat16, say), accumulating in float32; None
      does not round.
    axis_name: inside `shard_map`, the mesh axis over which the rows are sharded; negatives are then global.
      Each device then also holds the sums of the embeddings of each class, at most one row per image.

  Returns:
    A scalar, or `(n,)`; nats, at least float32. A single image has loss 0.

  Raises:
    TypeError: embeddings that are not floating-point, a mask that is not boolean, labels that are not integers.
    ValueError: shapes that do not fit, `temperature <= 0`, an unknown `reduction`.

  Example:
    >>> import jax.numpy as jnp
    >>> from spectral_jax import losses
    >>> labels = jnp.array([0, 0, 1, 1])
    >>> print(f"{losses.supcon(jnp.eye(4), jnp.eye(4), labels, temperature=1.0):.4f}")
    1.8321

  Reference: Khosla et al. 2020, arXiv 2004.11362, equation 2.
  """
  views = _common.prepare_views(u, v, where=where, normalize=normalize, axis_name=axis_name)
  labels = _arrays.labels_of(labels, views.u.shape[0])
  root = _common.inverse_root(temperature, views.u.dtype)
  plan = _common.plan_for(len(views.u), tile_size, matmul_dtype, axis_name)
  z = jnp.concatenate([views.u, views.v]) * root
  # Every other row is in the denominator, the positives too: each row is a group of its own.
  every_row = jnp.concatenate([2 * views.image, 2 * views.image + 1])
  energies = _engine.within(_softmax.LSE, make_rows(z, every_row, jnp.tile(views.valid, 2)), plan).reshape(2, -1)

  sums, counts = _class_sums(z, labels, views.valid, axis_name)
  same = sums - z.reshape(2, *views.u.shape)
  positives = (same * z.reshape(same.shape)).sum(-1) / jnp.maximum(2 * counts - 1, 1)
  values = _softmax.without_positive(energies, positives).mean(0)
  return _common.reduce(values, views.valid, reduction, axis_name)


def _class_sums(z, labels, valid, axis_name):
  """For each image, the sum `(n, d)` of both views' rows of its class, and the number `(n,)` of images of its class."""
  every_label = labels if axis_name is None else lax.all_gather(labels, axis_name, tiled=True)
  # Padding with the largest integer keeps the list of classes sorted, so that a search finds each label's place.
  classes = jnp.unique(every_label, size=every_label.shape[0], fill_value=jnp.iinfo(labels.dtype).max)
  number = jnp.searchsorted(classes, labels)
  rows = z.reshape(2, labels.shape[0], -1).sum(0)
  sums = jnp.zeros_like(rows, shape=(classes.shape[0], rows.shape[1])).at[number].add(rows)
  counts = jnp.zeros_like(rows, shape=(classes.shape[0],)).at[number].add(valid.astype(rows.dtype))
  if axis_name is not None:
    sums, counts = lax.psum((sums, counts), axis_name)
  return sums[number], counts[number]
