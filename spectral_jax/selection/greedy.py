"""Greedy-m: a batch built element by element, each the best of m candidates for the batch's effective rank."""

from functools import partial

import jax
import jax.numpy as jnp
from jax import lax

from spectral_jax._arrays import HIGHEST
from spectral_jax.selection import _checks, _moments
from spectral_jax.selection._draw import distinct


def greedy_batch(key, embeddings, batch_size, *, candidates=64, objective="max", target=None, center=False):
  """Builds a batch greedily on the participation ratio (Greedy-m).

  `PR(S) = k^2 / F`, `F = sum_{i,j in S} (x_i . x_j)^2`. The first element is drawn uniformly. Each further one is the
  best of `candidates` drawn uniformly, without repeats, from those not yet taken:

      "max"      the smallest  q(x) = x^T C x,  C = sum_{S} x x^T    (the largest gain in effective rank)
      "min"      the largest q(x)
      "target"   the one whose resulting PR is nearest to  target * min(k, d)

  A step costs candidates x d^2 and nothing that grows with the bank; `candidates=None` looks at all that are left, at
  m x d a step. PR is not submodular: no ratio to the best possible batch is promised. To build the batches of many
  steps at once, `jax.vmap` over keys: one sequential sweep serves them all.

  Args:
    key: a JAX random key.
    embeddings: `(m, d)`, unitless; rows are normalised inside. The dtype is kept for the bank and raised to at least
      float32 for the rows looked at.
    batch_size: examples in the batch, at most m.
    candidates: examples looked at for each element, at most `m - batch_size + 1`; 64 as in the paper's Greedy-64.
    objective: "max", "min" or "target".
    target: fraction in (0, 1] of the highest possible effective rank, for `objective="target"`; otherwise not used.
    center: take the batch's mean out first: the participation ratio of its covariance (from the third element on).

  Returns:
    `(batch_size,)` int32 indices into `embeddings`, in the order they were taken.

  Raises:
    ValueError: a batch larger than the bank, candidates < 1 or more than are left, a target outside (0, 1], rows that
      are not finite.

  Example:
    >>> import jax
    >>> from spectral_jax.selection import greedy_batch
    >>> bank = jax.random.normal(jax.random.key(0), (1000, 16))
    >>> keys = jax.random.split(jax.random.key(1), 5)
    >>> jax.vmap(lambda key: greedy_batch(key, bank, 32))(keys).shape
    (5, 32)

  Reference: arXiv 2510.05767 names the greedy builder; the statement above is this project's.
  """
  bank = _checks.check_bank(embeddings, batch_size)
  candidates = _checks.check_candidates(candidates, bank.shape[0] - batch_size + 1)
  _checks.check_objective(objective, target)
  target = 1.0 if target is None else target
  build = _among_all if candidates is None else partial(_among_few, candidates=candidates)
  return build(key, bank, target, batch_size=batch_size, objective=objective, center=center)


@partial(jax.jit, static_argnames=("batch_size", "candidates", "objective", "center"))
def _among_few(key, bank, target, *, batch_size, candidates, objective, center):
  """Partial Fisher-Yates: `left` holds the examples not yet taken in its first m - k places."""
  m, d = bank.shape
  dtype = jnp.promote_types(bank.dtype, jnp.float32)

  def step(k, carry):
    left, taken, moments = carry
    places = distinct(jax.random.fold_in(key, k), candidates, m - k)
    looked_at = left[places]
    rows = _checks.directions(bank[looked_at])
    costs = _moments.cost(moments, _moments.products(moments, rows, center=center),
                          objective=objective, target=target, center=center)
    costs = jnp.where((k == 0) & jnp.isfinite(costs), priority, costs)
    best = jnp.argmin(costs)
    taken = taken.at[k].set(looked_at[best])
    left = left.at[places[best]].set(left[m - 1 - k])
    return left, taken, _moments.add(moments, rows[best])

  # A subset is drawn uniformly but not in uniform order; random costs make the first element uniform.
  priority = jax.random.uniform(jax.random.fold_in(key, batch_size), (candidates,), dtype)
  left = jnp.arange(m, dtype=jnp.int32)
  taken = jnp.zeros((batch_size,), jnp.int32)
  return lax.fori_loop(0, batch_size, step, (left, taken, _moments.empty(d, dtype)))[1]


@partial(jax.jit, static_argnames=("batch_size", "objective", "center"))
def _among_all(key, bank, target, *, batch_size, objective, center):
  """`x^T C x` of every row is kept, and grows by `(x . new)^2`: m x d a step."""
  m, d = bank.shape
  rows = _checks.directions(bank)

  def step(k, carry):
    quadratic, free, taken, moments = carry
    to = products_of_all(moments, rows, quadratic, center=center)
    costs = _moments.cost(moments, to, objective=objective, target=target, center=center)
    costs = jnp.where((k == 0) & jnp.isfinite(costs), priority, costs)
    best = first_best(costs, free)
    new = rows[best]
    quadratic = quadratic + jnp.dot(rows, new, precision=HIGHEST) ** 2
    return quadratic, free.at[best].set(False), taken.at[k].set(best), _moments.add(moments, new)

  priority = jax.random.uniform(key, (m,), rows.dtype)
  start = (jnp.zeros((m,), rows.dtype), jnp.ones((m,), bool), jnp.zeros((batch_size,), jnp.int32),
           _moments.empty(d, rows.dtype))
  return lax.fori_loop(0, batch_size, step, start)[2]


def products_of_all(moments, rows, quadratic, *, center):
  """`Products` of all rows where `quadratic`, their `x^T C x`, is already known: n x d operations."""
  square = jnp.sum(rows * rows, axis=1)
  if not center:
    return _moments.Products(quadratic, jnp.zeros_like(square), jnp.zeros_like(square), square)
  image = jnp.dot(moments.second, moments.first, precision=HIGHEST)
  along, cross = jnp.dot(rows, jnp.stack([moments.first, image], axis=1), precision=HIGHEST).T
  return _moments.Products(quadratic, along, cross, square)


def first_best(costs, free):
  """The first free index of least cost; a free one even where every free cost is infinite."""
  costs = jnp.where(free, jnp.minimum(costs, jnp.finfo(costs.dtype).max), jnp.inf)
  return jnp.argmin(costs).astype(jnp.int32)
