"""The loops that build one batch element by element; the rule says what an element costs and what taking it changes."""

import jax
import jax.numpy as jnp
from jax import lax

from spectral_jax.selection import _checks
from spectral_jax.selection._draw import distinct


def among_all(key, rows, batch_size, start, costs, update, *, seeds=1):
  """Looks at every row that is left for each element; the first `seeds` are drawn uniformly.

  `costs(state)` is `(m,)`, the smaller the better; `update(state, k, best)` is the state once row `best` is element k.
  """
  m = rows.shape[0]
  directed = jnp.any(rows != 0, axis=1)
  priority = jax.random.uniform(key, (m,), rows.dtype)

  def step(k, carry):
    state, free, taken = carry
    cost = jnp.where(directed, jnp.where(k < seeds, priority, costs(state)), jnp.inf)
    best = first_best(cost, free)
    return update(state, k, best), free.at[best].set(False), taken.at[k].set(best)

  taken = jnp.zeros((batch_size,), jnp.int32)
  return lax.fori_loop(0, batch_size, step, (start, jnp.ones((m,), bool), taken))[2]


def among_few(key, bank, batch_size, candidates, start, costs, update, *, seeds=1):
  """Looks at up to `candidates` of what is left, drawn again for each element: no cost grows with the bank.

  `costs(state, rows)` is `(candidates,)`; `update(state, k, row)` is the state once `row` `(d,)` is element k. A
  partial Fisher-Yates: `left` holds the examples not yet taken in its first m - k places.
  """
  m, most = bank.shape[0], min(candidates, bank.shape[0])

  def step(k, carry):
    left, taken, state = carry
    remaining = m - k
    places = distinct(jax.random.fold_in(key, k), most, jnp.maximum(remaining, most))
    places = jnp.where(remaining > most, places, jnp.arange(most, dtype=jnp.int32))
    looked_at = left[places]
    rows = _checks.directions(bank[looked_at])
    cost = jnp.where(k < seeds, priority, costs(state, rows))
    cost = jnp.where(jnp.any(rows != 0, axis=1), cost, jnp.inf)
    best = first_best(cost, places < remaining)
    taken = taken.at[k].set(looked_at[best])
    left = left.at[places[best]].set(left[remaining - 1])
    return left, taken, update(state, k, rows[best])

  # A subset is drawn uniformly but not in uniform order; random costs make the first elements uniform.
  priority = jax.random.uniform(jax.random.fold_in(key, batch_size), (most,),
                                jnp.promote_types(bank.dtype, jnp.float32))
  left = jnp.arange(m, dtype=jnp.int32)
  taken = jnp.zeros((batch_size,), jnp.int32)
  return lax.fori_loop(0, batch_size, step, (left, taken, start))[1]


def first_best(costs, free):
  """The first free index of least cost; a free one even where every free cost is infinite."""
  costs = jnp.where(free, jnp.minimum(costs, jnp.finfo(costs.dtype).max), jnp.inf)
  return jnp.argmin(costs).astype(jnp.int32)
