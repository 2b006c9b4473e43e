"""Sums over paired rows that add over batches and devices, from which CKA and RSA follow exactly.

Notation. Paired rows `x_i`, `y_i`, i = 1..n, after their means are subtracted; `a_i = |x_i|^2`, `b_i = |y_i|^2` with
means `a`, `b`; `alpha_i = a_i - a`, `beta_i = b_i - b`. What is kept is the covariance of the rows `[x_i, a_i]` and
`[y_i, b_i]` in blocks:

    cross = sum x_i y_i^T      left = sum beta_i x_i      right = sum alpha_i y_i      squares = sum alpha_i beta_i

and the same of x with x and of y with y. Moving the origin, `x -> x + s`, `y -> y + t`, maps `[x, a]` linearly, so two
sets of rows are joined by moving each to the joint mean:

    cross += n s t^T      left += 2 cross t + n (b' - b'') s      right += 2 cross^T s + n (a' - a'') t
    squares += 2 s.left + 2 t.right + 4 s^T cross t + n (a' - a'')(b' - b'')

with `a' = a + |s|^2` the set's new mean square and `a''` that of all rows (Chan, Golub and LeVeque 1983 for the first).

Accuracy in float32. Rows are taken relative to a reference row, which is exact where rows are close to each other,
and then to their running mean: a mean that is far larger than the spread costs no digits. Every sum is a pair of
numbers, the second holding what rounding cut off the first, so that the number of batches does not matter. Raw rows
are divided by a power of two near the largest entry of the first batch, lest fourth powers overflow.
"""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from spectral_jax import _arrays

TILE = 1024  # rows that are multiplied at once


class Pair(NamedTuple):
  """Sums over the pairs of rows of two sides; see the module's head."""

  cross: jax.Array  # (d_x, d_y)
  left: jax.Array  # (d_x,)
  right: jax.Array  # (d_y,)
  squares: jax.Array  # ()


class Sums(NamedTuple):
  """Of x with x, y with y and x with y."""

  xx: Pair
  yy: Pair
  xy: Pair


class Moments(NamedTuple):
  """What is known of the rows seen so far: a pytree of arrays. Pairs hold x's and y's entry."""

  count: jax.Array  # (), int32: rows seen
  reference: tuple  # (d_x,), (d_y,): the first row of each side, as it came
  scale: tuple  # (), (): the power of two that raw rows are divided by
  mean: tuple  # (d_x,), (d_y,): the mean of scaled rows less the reference
  mean_rest: tuple  # what rounding cut off `mean`
  sums: Sums
  sums_rest: Sums  # what rounding cut off `sums`


def empty(d_x, d_y, dtype):
  """The moments of no rows."""
  def zeros(*shape):
    return jnp.zeros(shape, dtype)

  def pair(d, e):
    return Pair(zeros(d, e), zeros(d), zeros(e), zeros())

  def sums():
    return Sums(pair(d_x, d_x), pair(d_y, d_y), pair(d_x, d_y))

  def sides():
    return zeros(d_x), zeros(d_y)

  return Moments(jnp.zeros((), jnp.int32), sides(), (jnp.ones((), dtype),) * 2, sides(), sides(), sums(), sums())


def update(state, x, y, where, *, unit):
  """The moments with the rows of `x` and `y` that `where` keeps added, a tile at a time."""
  state = with_reference(_on_the_axes_of(state, x, y, where), x, y, where, unit)
  n = x.shape[0]
  rows = min(n, TILE)

  def add(tile, state):
    first = jnp.minimum(tile * rows, n - rows)  # the last tile overlaps the one before it
    take = functools.partial(lax.dynamic_slice_in_dim, start_index=first, slice_size=rows)
    kept = take(where) & (first + jnp.arange(rows) >= tile * rows)
    return joined(state, _of_tile(state, take(x), take(y), kept, unit))

  return add(0, state) if rows == n else lax.fori_loop(0, -(-n // rows), add, state)


def merge(one, other, *, unit):
  """The moments of the rows of both."""
  reference, scale = jax.tree.map(
      lambda a, b: jnp.where(one.count > 0, a, b), (one.reference, one.scale), (other.reference, other.scale))
  return joined(_relative_to(one, reference, scale, unit), _relative_to(other, reference, scale, unit))


def psum(state, axis_name, *, unit):
  """The moments of the rows of all devices along a mesh axis, the same on each."""
  me = lax.axis_index(axis_name)
  first = lax.pmin(jnp.where(state.count > 0, me, jnp.iinfo(jnp.int32).max), axis_name)
  reference, scale = jax.tree.map(
      lambda a: lax.psum(jnp.where(me == first, a, jnp.zeros_like(a)), axis_name), (state.reference, state.scale))
  scale = jax.tree.map(lambda s: jnp.where(s > 0, s, 1.0), scale)  # no device has a row
  state = _relative_to(state, reference, scale, unit)

  count = lax.psum(state.count, axis_name)
  here, n = size(state), jnp.maximum(count, 1).astype(state.mean[0].dtype)
  # Any origin near the mean does; the first device's keeps the differences between devices exact.
  origin = jax.tree.map(lambda a: lax.psum(jnp.where(me == first, a, jnp.zeros_like(a)), axis_name), state.mean)
  away = jax.tree.map(lambda m, o, r: jnp.where(here > 0, (m - o) + r, 0.0), state.mean, origin, state.mean_rest)
  step = jax.tree.map(lambda a: lax.psum(here / n * a, axis_name), away)
  mean, mean_rest = _map(_two_sum, origin, step)
  shift = jax.tree.map(jnp.subtract, away, step)
  squares = _mean_squares(state, shift)
  gaps = tuple(q - lax.psum(here / n * q, axis_name) for q in squares)
  sums, rest = _add(state.sums, _moves(state.sums, here, shift, gaps), state.sums_rest)
  sums, rest = lax.psum((sums, rest), axis_name)
  return Moments(count, reference, scale, mean, mean_rest, sums, rest)


def joined(one, other):
  """The moments of the rows of two states that have the same reference and scale."""
  n_one, n_other = size(one), size(other)
  n = jnp.maximum(n_one + n_other, 1)
  apart = jax.tree.map(lambda a, ra, b, rb: (b - a) + (rb - ra), one.mean, one.mean_rest, other.mean, other.mean_rest)
  mean, lost = _map(lambda a, d: _two_sum(a, n_other / n * d), one.mean, apart)
  mean_rest = jax.tree.map(jnp.add, one.mean_rest, lost)

  shift_one = jax.tree.map(lambda d: -n_other / n * d, apart)
  shift_other = jax.tree.map(lambda d: n_one / n * d, apart)
  gap = tuple(b - a for a, b in zip(_mean_squares(one, shift_one), _mean_squares(other, shift_other)))
  moved_one = _moves(one.sums, n_one, shift_one, tuple(-n_other / n * g for g in gap))
  moved_other = _moves(other.sums, n_other, shift_other, tuple(n_one / n * g for g in gap))
  more = jax.tree.map(lambda s, a, b: s + (a + b), other.sums, moved_one, moved_other)
  rest = jax.tree.map(jnp.add, one.sums_rest, other.sums_rest)
  sums, rest = _add(one.sums, more, rest)
  return Moments(one.count + other.count, one.reference, one.scale, mean, mean_rest, sums, rest)


def total(values):
  """The sum of all entries, eight by eight: its error hardly grows with their number."""
  values = values.ravel()
  while values.shape[0] > 8:
    values = jnp.pad(values, (0, -values.shape[0] % 8)).reshape(-1, 8).sum(axis=1)
  return values.sum()


def trace(a):
  """The trace of a square matrix; `jnp.trace` makes a second matrix, of its diagonal."""
  return jnp.sum(a.ravel()[::a.shape[0] + 1])


def unit_offsets(x, reference):
  """`x_i/|x_i| - r/|r|` for rows near the reference r, without the cancellation; NaN for a zero row.

  With `e = x - r`: `(e - r (2 r.e + e.e) / (|r| (|x| + |r|))) / |x|`, as `|x|^2 - |r|^2 = 2 r.e + e.e`.
  """
  x, reference = _power_of_two_rows(x), _power_of_two_rows(reference)
  e = x - reference
  length, own = (jnp.sqrt(jnp.sum(z * z, axis=-1, keepdims=True)) for z in (x, reference))
  growth = jnp.sum(e * (2 * reference + e), axis=-1, keepdims=True)
  return (e - reference * (growth / (own * (length + own)))) / length


def power_of_two(largest):
  """The power of two just above `largest`; 1 for zero or NaN. Dividing by it is exact."""
  usable = (largest > 0) & jnp.isfinite(largest)
  exponent = jnp.frexp(jnp.where(usable, largest, 0.5))[1]
  limit = -jnp.finfo(largest.dtype).minexp - 1  # beyond it the reciprocal would be flushed to zero
  return jnp.ldexp(jnp.ones_like(largest), jnp.clip(exponent, -limit, limit))


def _power_of_two_rows(x):
  """Rows divided by a power of two each: they keep their direction, exactly, and their squares do not overflow."""
  return x / power_of_two(lax.stop_gradient(jnp.max(jnp.abs(x), axis=-1, keepdims=True)))


def with_reference(state, x, y, where, unit):
  """The state with its reference rows and scales set, if it has seen no row yet. No result depends on them."""
  fresh, first = state.count == 0, jnp.argmax(where)

  def side(z, reference, scale):
    z = lax.stop_gradient(z)
    row = jnp.where(where[first], z[first], 0.0)
    largest = jnp.max(jnp.where(where[:TILE, None], jnp.abs(z[:TILE]), 0.0))
    own = jnp.ones_like(scale) if unit else power_of_two(largest)
    return jnp.where(fresh, row, reference), jnp.where(fresh, own, scale)

  reference, scale = _map(side, (x, y), state.reference, state.scale)
  return state._replace(reference=reference, scale=scale)


def centered(z, reference, scale, kept, unit):
  """Rows less the mean of those that are kept, 0 elsewhere; that mean less the reference, and its rounding error."""
  z = jnp.where(kept[:, None], z, reference)  # nothing in a masked row reaches the result or its gradient
  z = unit_offsets(z, reference) if unit else (z - reference) / scale
  z = jnp.where(kept[:, None], z, 0.0)
  n = jnp.maximum(jnp.sum(kept, dtype=jnp.int32), 1).astype(z.dtype)
  mean = jnp.sum(z, axis=0) / n
  z = jnp.where(kept[:, None], z - mean, 0.0)
  rest = jnp.sum(z, axis=0) / n  # what rounding left of the mean, which may be far larger than the spread
  return jnp.where(kept[:, None], z - rest, 0.0), mean, rest


def around_mean(values, kept):
  """`values` less the mean of those that are kept, 0 elsewhere."""
  n = jnp.maximum(jnp.sum(kept, dtype=jnp.int32), 1).astype(values.dtype)
  return jnp.where(kept, values - jnp.sum(jnp.where(kept, values, 0.0)) / n, 0.0)


def _of_tile(state, x, y, kept, unit):
  """The moments of a tile's rows that are kept, relative to the state's reference."""
  rows, mean, mean_rest = _map(
      lambda z, reference, scale: centered(z, reference, scale, kept, unit), (x, y), state.reference, state.scale)
  around = [around_mean(jnp.sum(z * z, axis=1), kept) for z in rows]

  def pair(i, j):
    return Pair(dot(rows[i].T, rows[j]), dot(around[j], rows[i]), dot(around[i], rows[j]), total(around[i] * around[j]))

  sums = Sums(pair(0, 0), pair(1, 1), pair(0, 1))
  count = jnp.sum(kept, dtype=jnp.int32)
  return Moments(count, state.reference, state.scale, mean, mean_rest, sums, jax.tree.map(jnp.zeros_like, sums))


def _relative_to(state, reference, scale, unit):
  """The same rows' moments for another reference and scale."""
  some = state.count > 0

  def side(mean, own, own_scale, reference, scale):
    between = unit_offsets(own, reference) if unit else (own - reference) / scale
    moved = _two_sum(mean * (own_scale / scale), jnp.where(some, between, 0.0))
    return tuple(jnp.where(some, m, 0.0) for m in moved)

  mean, lost = _map(side, state.mean, state.reference, state.scale, reference, scale)
  ratio = jax.tree.map(lambda own, new: jnp.where(some, own / new, 1.0), state.scale, scale)
  mean_rest = jax.tree.map(lambda r, f, m: r * f + m, state.mean_rest, ratio, lost)

  def scaled(pair, f, g):
    return Pair(pair.cross * (f * g), pair.left * (f * g * g), pair.right * (f * f * g), pair.squares * (f * g) ** 2)

  def rescaled(sums):
    f, g = ratio
    return Sums(scaled(sums.xx, f, f), scaled(sums.yy, g, g), scaled(sums.xy, f, g))

  return Moments(state.count, reference, scale, mean, mean_rest, rescaled(state.sums), rescaled(state.sums_rest))


def _moves(sums, n, shift, gap):
  """What `sums` gains when its rows move by `shift` and their mean squares then lie `gap` above those of all rows."""
  def pair(p, s, t, gap_s, gap_t):
    image, back = dot(p.cross, t), dot(s, p.cross)
    squares = 2 * (dot(s, p.left) + dot(t, p.right)) + 4 * dot(s, image) + n * gap_s * gap_t
    return Pair((n * s)[:, None] * t, 2 * image + n * gap_t * s, 2 * back + n * gap_s * t, squares)

  (s, t), (gap_s, gap_t) = shift, gap
  return Sums(pair(sums.xx, s, s, gap_s, gap_s), pair(sums.yy, t, t, gap_t, gap_t), pair(sums.xy, s, t, gap_s, gap_t))


def _mean_squares(state, shift):
  """Mean squared length of each side's rows, moved by `shift`."""
  n = jnp.maximum(size(state), 1)
  traces = tuple(trace(p.cross) + trace(r.cross) for p, r in zip(state.sums[:2], state.sums_rest[:2]))
  return tuple(t / n + jnp.sum(s * s) for t, s in zip(traces, shift))


def _add(sums, more, rest):
  """`sums + more`, and `rest` with what rounding cut off it: that first, so that a loop adds in place."""
  rest = jax.tree.map(lambda a, b, r: r + _two_sum(a, b)[1], sums, more, rest)
  sums, more, rest = lax.optimization_barrier((sums, more, rest))
  return jax.tree.map(jnp.add, sums, more), rest


def _two_sum(a, b):
  """`a + b` rounded, and exactly what rounding cut off it (Knuth)."""
  s = a + b
  of_b = s - a
  return s, lax.stop_gradient((a - (s - of_b)) + (b - of_b))


def _map(function, *trees):
  """`function`, which returns several arrays, over the leaves of trees of one structure: a tree for each of them."""
  structure = jax.tree.structure(trees[0])
  results = [function(*leaves) for leaves in zip(*map(jax.tree.leaves, trees))]
  return tuple(jax.tree.unflatten(structure, part) for part in zip(*results))


def _on_the_axes_of(state, *arrays):
  """The state, typed as varying over every mesh axis that an array varies over: a loop's carry must keep its type."""
  entries = [a.ravel()[0] for a in arrays]
  marker = functools.reduce(jnp.logical_and, [e == e for e in entries])
  return jax.tree.map(lambda leaf: jnp.where(marker, leaf, leaf), state)


def size(state):
  return state.count.astype(state.mean[0].dtype)


def dot(a, b):
  return jnp.matmul(a, b, precision=_arrays.HIGHEST)
