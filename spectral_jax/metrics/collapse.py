"""How tightly classes cluster about their means: CDNV, its directional form, and the nearest class center classifier.

Notation: class c has `n_c` rows, mean `mu_c` and variance `var_c = mean_{i in c} ||z_i - mu_c||^2`.
"""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.core import Tracer

from spectral_jax import _arrays
from spectral_jax.metrics import _moments

if TYPE_CHECKING:
  from jaxtyping import Array, ArrayLike, Float, Int

TILE_ENTRIES = 2 ** 24  # entries alive at once: 64 MiB of float32


def cdnv(z: Float[ArrayLike, "n d"], labels: Int[ArrayLike, " n"], *,
         num_classes: int | None = None) -> Float[Array, ""]:
  """Class-distance normalized variance: the mean over pairs of classes of their spread by the distance of their means.

  `mean_{c < e} (var_c + var_e) / (2 ||mu_c - mu_e||^2)`; 0 is full collapse of every class to a point.

  Args:
    z: `(n, d)` embeddings, used as they are (not normalized).
    labels: `(n,)` integers, the classes; any integers, each class that occurs counts once.
    num_classes: static; at least the number of classes that occur. None counts them; under `jit`, where labels are not
      known, it then stands for n, which costs `n^2 d` operations: pass it there.

  Returns:
    A scalar of at least float32, >= 0. A class of one row has variance 0. Infinite where two means coincide and their
    classes have a spread; NaN where they have none, where an entry is NaN, where under `jit` only one class occurs, or
    where more classes occur than `num_classes`.

  Raises:
    TypeError, ValueError: `z` is not a floating-point matrix, labels that are not integers or not of shape `(n,)`,
    fewer than 2 classes, `num_classes` that is not an integer >= 2.

  >>> import jax.numpy as jnp
  >>> z = jnp.array([[1.0, 0.0], [3.0, 0.0], [2.0, 4.0], [2.0, 4.0]])
  >>> print(cdnv(z, jnp.array([0, 0, 1, 1])), directional_cdnv(z, jnp.array([0, 0, 1, 1])))
  0.03125 0.0

  Reference: Galanti, Gyorgy and Hutter 2022, arXiv 2112.15121.
  """
  return _cdnv(*_checked(z, labels, num_classes), directional=False)


def directional_cdnv(z: Float[ArrayLike, "n d"], labels: Int[ArrayLike, " n"], *,
                     num_classes: int | None = None) -> Float[Array, ""]:
  """`cdnv` with only the variance along the line between the two means.

  `mean_{c < e} (v_ce + v_ec) / (2 ||mu_c - mu_e||^2)` with `v_ce = mean_{i in c} ((z_i - mu_c).w_ce)^2`, `w_ce` the
  unit vector from one mean to the other. Never above `cdnv`. Memory is of order `n d + C^2` for C classes.

  Args, Returns, Raises: as `cdnv`.

  Reference: arXiv 2510.08852.
  """
  return _cdnv(*_checked(z, labels, num_classes), directional=True)


def nccc_accuracy(train_z: Float[ArrayLike, "n d"], train_y: Int[ArrayLike, " n"], test_z: Float[ArrayLike, "m d"],
                  test_y: Int[ArrayLike, " m"], *, num_classes: int | None = None) -> Float[Array, ""]:
  """Share of test rows whose nearest class mean, of the training rows, is their own class's.

  Args:
    train_z: `(m, d)` training embeddings, used as they are; distances are Euclidean.
    train_y: `(m,)` integer classes; one class is allowed.
    test_z: `(n, d)` test embeddings.
    test_y: `(n,)` integer classes; a row of a class without training rows is a miss.
    num_classes: static; as in `cdnv`.

  Returns:
    A float32 scalar in [0, 1]; ties go to the class of the lower number. NaN if an entry is NaN, or if more classes
    occur than `num_classes`.

  Raises:
    TypeError, ValueError: embeddings or labels of a wrong type or shape, or of different widths.

  >>> import jax.numpy as jnp
  >>> print(nccc_accuracy(jnp.eye(3), jnp.arange(3), jnp.eye(3) + 0.1, jnp.array([0, 1, 1])))
  0.6666667

  Reference: arXiv 2112.15121.
  """
  train_z, train_y, size = _checked(train_z, train_y, num_classes, ("train_z", "train_y"), least=1)
  test_z = _arrays.matrix("test_z", test_z)
  if train_z.shape[1] != test_z.shape[1]:
    raise ValueError(f"train_z and test_z must have the same width, got {train_z.shape} and {test_z.shape}; "
                     "compute both with the same encoder")
  return _nccc(train_z, train_y, test_z, _arrays.labels_of(test_y, test_z.shape[0], "test_y"), size)


class Classes(NamedTuple):
  """Of `size` classes in ascending order, those that do not occur last."""

  names: jax.Array  # (size,)
  number: jax.Array  # (n,): each row's class
  counts: jax.Array  # (size,)
  means: jax.Array  # (size, d), of rows relative to `origin`
  rows: jax.Array  # (n, d), relative to `origin`; NaN if there are more classes than `size`
  origin: jax.Array  # (d,): about the mean, so that a large one costs no digits


def _checked(z, labels, num_classes, names=("z", "labels"), least=2):
  z = _arrays.matrix(names[0], z)
  labels = _arrays.labels_of(labels, z.shape[0], names[1])
  known = None if isinstance(labels, Tracer) else len(np.unique(np.asarray(labels)))
  if known is not None and known < least:
    raise ValueError(f"{names[1]} must hold at least {least} classes, got {known}; compare examples of several classes")
  if num_classes is None:
    return z, labels, z.shape[0] if known is None else known
  if isinstance(num_classes, bool) or not isinstance(num_classes, int) or num_classes < least:
    raise ValueError(f"num_classes must be an integer of at least {least}, got {num_classes!r}")
  if known is not None and known > num_classes:
    raise ValueError(f"num_classes must be at least the number of classes in {names[1]}, {known}; got {num_classes}")
  return z, labels, num_classes


def _classes(z, labels, size):
  names = jnp.unique(labels, size=size, fill_value=jnp.iinfo(labels.dtype).max)
  number = jnp.minimum(jnp.searchsorted(names, labels), size - 1)
  origin = lax.stop_gradient(z[0] + jnp.mean(z - z[0], axis=0))
  rows = jnp.where(jnp.all(names[number] == labels), z - origin, jnp.nan)
  counts = jnp.zeros(size, z.dtype).at[number].add(1)
  first = jnp.zeros((size, z.shape[1]), z.dtype).at[number].add(rows) / jnp.maximum(counts, 1)[:, None]
  # The mean of what the first mean leaves: equal rows then lie on their mean to a rounding of their own size.
  rest = jnp.zeros_like(first).at[number].add(rows - first[number]) / jnp.maximum(counts, 1)[:, None]
  return Classes(names, number, counts, first + rest, rows, origin)


@functools.partial(jax.jit, static_argnames=("size", "directional"))
def _cdnv(z, labels, size, *, directional):
  c = _classes(z / _moments.power_of_two(lax.stop_gradient(jnp.max(jnp.abs(z)))), labels, size)
  here = c.counts > 0
  residuals = c.rows - c.means[c.number]

  def spread_of(values):
    return jnp.zeros(size, z.dtype).at[c.number].add(values) / jnp.maximum(c.counts, 1)

  variances = spread_of(jnp.sum(residuals * residuals, axis=1))

  def with_class(one):
    mean, counts = one
    between = c.means - mean
    distance = jnp.sum(between * between, axis=1)
    others = here & counts & (distance > 0) | jnp.isnan(distance)
    safe = jnp.where(others, distance, 1.0)
    if directional:  # each ordered pair gives one side's variance; their mean is that of the pairs
      along = _moments.dot(residuals, mean) - jnp.sum(residuals * c.means[c.number], axis=1)
      return jnp.where(others, spread_of(along * along) / safe / safe, 0.0), distance
    return jnp.where(others, variances / safe, 0.0), distance

  tile = max(1, min(size, TILE_ENTRIES // max(z.shape[0], size * z.shape[1])))
  ratios, distances = lax.map(with_class, (c.means, here), batch_size=tile)
  pairs = here[:, None] & here & ~jnp.eye(size, dtype=bool)
  touching = pairs & (distances == 0)
  ratios = jnp.where(touching, jnp.where(variances > 0, jnp.inf, jnp.where(variances[:, None] > 0, 0.0, jnp.nan)),
                     ratios)
  number = jnp.sum(pairs, dtype=z.dtype)
  mean = jnp.sum(jnp.where(pairs, ratios, 0.0)) / jnp.maximum(number, 1)
  return jnp.where(number > 0, mean, jnp.nan)


@functools.partial(jax.jit, static_argnames="size")
def _nccc(train_z, train_y, test_z, test_y, size):
  # Squares of huge rows would overflow; those of tiny ones would vanish, and every class be as near as the first.
  scale = _moments.power_of_two(lax.stop_gradient(jnp.maximum(jnp.max(jnp.abs(train_z)), jnp.max(jnp.abs(test_z)))))
  train_z, test_z = train_z / scale, test_z / scale
  c = _classes(train_z, train_y, size)
  lengths = jnp.where(c.counts > 0, jnp.sum(c.means * c.means, axis=1), jnp.inf)

  def hit(row):
    z, y = row
    distances = lengths - 2 * _moments.dot(c.means, (z - c.origin).astype(c.means.dtype))
    return jnp.where(jnp.isnan(distances).any(), jnp.nan, (c.names[jnp.argmin(distances)] == y).astype(jnp.float32))

  n = test_z.shape[0]
  return jnp.mean(lax.map(hit, (test_z, test_y), batch_size=max(1, min(n, TILE_ENTRIES // size))))
