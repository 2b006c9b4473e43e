"""Representational similarity analysis on cosine distances (Kriegeskorte, Mur and Bandettini 2008)."""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from spectral_jax import _arrays
from spectral_jax.metrics import _moments, _products

if TYPE_CHECKING:
  from typing import Literal

  from jaxtyping import Array, ArrayLike, Bool, Float, PRNGKeyArray

METHODS = ("pearson", "spearman")
EXACT_ROWS = 2048  # up to here Spearman's correlation ranks every pair: two million
GROUPS = 64  # of sampled pairs, whose scatter gives the standard error
PAIR_TILE = 4096  # sampled pairs whose rows are alive at once


class RSA(NamedTuple):
  """A correlation and the standard error of its estimate, 0 where every pair was counted."""

  value: jax.Array
  standard_error: jax.Array


def rsa(x: Float[ArrayLike, "n d1"], y: Float[ArrayLike, "n d2"], *, method: Literal["pearson", "spearman"] = "pearson",
        where: Bool[ArrayLike, " n"] | None = None, axis_name: str | None = None, pairs: int = 2**18,
        key: PRNGKeyArray | None = None) -> Float[Array, ""]:
  """Correlation, over pairs of examples, of their cosine distances in two representations.

  `corr_{i<j}(1 - cos(x_i, x_j), 1 - cos(y_i, y_j))`: 1 if the distances agree up to scale and offset.

  Pearson's is exact in one pass over the rows, in memory of order `min(n, d)^2`, whatever n is, and rows that all
  point in nearly the same direction cost no accuracy; `metrics.streaming_rsa` takes them in batches. Spearman's, of the
  distances' ranks (ties share their mean rank), is exact up to 2,048 rows; beyond, it is estimated from random pairs,
  and `rsa_with_error` tells how well.

  Args:
    x: `(n, d_x)` one representation; rows are compared by cosine.
    y: `(n, d_y)` the other; row i is the same example as row i of x.
    method: `"pearson"` (default) or `"spearman"`.
    where: `(n,)` bool, rows that count; None for all. What the others hold does not matter.
    axis_name: inside `shard_map`, the mesh axis that rows are sharded over; Pearson's only.
    pairs: how many random pairs stand for all where Spearman's is estimated, a multiple of 64; 262,144.
    key: `jax.random` key that draws them; None for `jax.random.key(0)`.

  Returns:
    A scalar of at least float32 in [-1, 1]. NaN if all distances of a side are equal (as when fewer than 3 rows
    count), if a row that counts is zero, which has no cosine (leave it out with `where`), or has NaN or infinite
    entries.

  Raises:
    TypeError, ValueError: arrays of a wrong type or rank, different numbers of rows, fewer than 3 rows where that is
    known, an unknown method, Spearman's over a mesh axis, or `pairs` that is not a positive multiple of 64.

  >>> import jax
  >>> x = jax.random.normal(jax.random.key(0), (100, 8))
  >>> print(f"{rsa(x, 3 * x[:, ::-1]):.4f} {rsa(x, x[::-1]):.1f}")
  1.0000 0.0

  Reference: Kriegeskorte et al. 2008, "Representational similarity analysis", Frontiers in Systems Neuroscience 2:4.
  """
  return rsa_with_error(x, y, method=method, where=where, axis_name=axis_name, pairs=pairs, key=key).value


def rsa_with_error(x: Float[ArrayLike, "n d1"], y: Float[ArrayLike, "n d2"], *,
                   method: Literal["pearson", "spearman"] = "pearson", where: Bool[ArrayLike, " n"] | None = None,
                   axis_name: str | None = None, pairs: int = 2**18, key: PRNGKeyArray | None = None) -> RSA:
  """`rsa` with the standard error that sampling pairs gave it: `RSA(value, standard_error)`.

  The error is 0 for Pearson's, and for Spearman's up to 2,048 rows, which count every pair. Beyond, it is the standard
  deviation of the estimates of 64 groups of the drawn pairs, divided by 8. It speaks of the distance to the value over
  all pairs of these rows, not of how the value would change with other examples.

  Args, Raises: as `rsa`.

  Returns:
    `RSA(value, standard_error)`, two scalars.

  >>> import jax
  >>> x = jax.random.normal(jax.random.key(0), (3000, 4))
  >>> estimate = rsa_with_error(x, x + 1, method="spearman", pairs=2**14)
  >>> bool(0 < estimate.standard_error < 0.02)
  True
  """
  _arrays.choice("method", method, METHODS)
  x, y, where = _products.rows_of(x, y, where, 3 if axis_name is None else 1, "rsa")
  if method == "pearson":
    value = _pearson(x, y, where, axis_name=axis_name)
    return RSA(value, value * 0)
  if axis_name is not None:
    raise ValueError(
        f"method='spearman' needs all rows on one device, got axis_name={axis_name!r}; take method='pearson', or call "
        "it outside shard_map")
  if isinstance(pairs, bool) or not isinstance(pairs, int) or pairs < 1 or pairs % GROUPS:
    raise ValueError(f"pairs must be a positive multiple of {GROUPS}, got {pairs!r}; 2**18 is the default")
  if x.shape[0] <= EXACT_ROWS:
    value = _spearman(x, y, where)
    return RSA(value, value * 0)
  return RSA(*_sampled_spearman(x, y, where, jax.random.key(0) if key is None else key, pairs=pairs))


@functools.partial(jax.jit, static_argnames="axis_name")
def _pearson(x, y, where, *, axis_name):
  return _products.pearson_rsa(_products.of_rows(x, y, where, axis_name, unit=True))


@jax.jit
def _spearman(x, y, where):
  n = x.shape[0]
  i, j = jnp.triu_indices(n, 1)
  kept = where[i] & where[j]
  state = _moments.with_reference(_moments.empty(x.shape[1], y.shape[1], x.dtype), x, y, where, True)

  def distances(z, reference):
    rows = _moments.centered(z, reference, jnp.ones((), z.dtype), where, True)[0]
    squares = jnp.sum(rows * rows, axis=1)
    return ((squares[:, None] + squares) / 2 - _moments.dot(rows, rows.T))[i, j]

  return _rank_correlation(distances(x, state.reference[0]), distances(y, state.reference[1]), kept)


@functools.partial(jax.jit, static_argnames="pairs")
def _sampled_spearman(x, y, where, key, *, pairs):
  rows = jnp.argsort(~where)  # those that count come first
  count = jnp.sum(where, dtype=jnp.int32)
  first_key, second_key = jax.random.split(key)
  first = jax.random.randint(first_key, (pairs,), 0, jnp.maximum(count, 1))
  # Any row but the first: a step of 1 to count - 1 around the circle of rows.
  second = (first + jax.random.randint(second_key, (pairs,), 1, jnp.maximum(count, 2))) % jnp.maximum(count, 1)

  def distances(pair):
    def side(z):
      apart = _moments.unit_offsets(z[rows[pair[0]]], z[rows[pair[1]]])
      return jnp.sum(apart * apart) / 2
    return side(x), side(y)

  of_x, of_y = lax.map(distances, (first, second), batch_size=min(PAIR_TILE, pairs))
  all_kept = jnp.ones((pairs,), bool)
  value = _rank_correlation(of_x, of_y, all_kept)
  parts = jax.vmap(_rank_correlation)(*(a.reshape(GROUPS, -1) for a in (of_x, of_y, all_kept)))
  enough = count >= 3
  return jnp.where(enough, value, jnp.nan), jnp.where(enough, jnp.std(parts, ddof=1) / GROUPS**0.5, jnp.nan)


def _rank_correlation(a, b, kept):
  """Pearson's correlation of the ranks of the entries that are kept."""
  mean = (jnp.sum(kept, dtype=jnp.int32).astype(a.dtype) - 1) / 2  # of ranks, whatever the ties

  def deviations(values):
    return jnp.where(kept, (_mean_ranks(values, kept) - mean) / values.shape[0], 0.0)

  a, b = deviations(a), deviations(b)
  return _products.cosine(_moments.total(a * b), _moments.total(a * a), _moments.total(b * b))


def _mean_ranks(values, kept):
  """Ranks from 0 of the entries that are kept; equal ones share their mean rank; all NaN if one of them is NaN.

  Values that agree to a few roundings of their range are equal: rounding alone would order them.
  """
  low, high = jnp.min(jnp.where(kept, values, jnp.inf)), jnp.max(jnp.where(kept, values, -jnp.inf))
  bits = jnp.finfo(values.dtype).nmant - 3
  steps = jnp.round((values - low) / jnp.where(high > low, high - low, 1.0) * 2.0**bits)
  steps = jnp.where(kept, steps, jnp.inf)
  order = jnp.argsort(steps)
  inorder = steps[order]
  place = jnp.arange(values.shape[0])
  begins = jnp.concatenate([jnp.ones(1, bool), inorder[1:] != inorder[:-1]])
  ends = jnp.concatenate([begins[1:], jnp.ones(1, bool)])
  first = lax.cummax(jnp.where(begins, place, 0))
  last = lax.cummin(jnp.where(ends, place, values.shape[0]), reverse=True)
  ranks = jnp.zeros_like(values).at[order].set((first + last).astype(values.dtype) / 2)
  return jnp.where(jnp.any(jnp.isnan(values) & kept), jnp.nan, ranks)
