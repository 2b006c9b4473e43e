"""Uniform draws without repeats, at a cost that does not depend on how many there are to draw from."""

import jax
import jax.numpy as jnp

# Up to this many draws, comparing all pairs is cheaper than sorting them.
_PAIRWISE = 256


def distinct(key, count, size):
  """Returns `(count,)` int32: a uniformly drawn `count`-subset of `0..size-1`; `size` may be traced, `count <= size`.

  Floyd's algorithm. Draw i takes `t_i`, uniform in `0..size-count+i`, or `size-count+i` itself where `t_i` was taken
  before. It was iff an earlier draw equals it, or it names an earlier draw's fallback and that draw fell back: a chain
  of pointers, followed by doubling. Subsets are uniform; the order within one is not.
  """
  order = jnp.arange(count, dtype=jnp.int32)
  fallback = size - count + order
  drawn = jax.random.randint(key, (count,), 0, fallback + 1, dtype=jnp.int32)
  falls = _repeats(drawn)
  parent = drawn - (size - count)
  parent = jnp.where((parent >= 0) & (parent < order), parent, order)
  for _ in range((count - 1).bit_length()):
    falls = falls | falls[parent]
    parent = parent[parent]
  return jnp.where(falls, fallback, drawn)


def _repeats(values):
  """`(n,)` bool: whether an earlier entry equals this one."""
  n = values.shape[0]
  if n <= _PAIRWISE:
    earlier = jnp.tri(n, k=-1, dtype=bool)
    return jnp.any((values[:, None] == values[None, :]) & earlier, axis=1)
  order = jnp.argsort(values, stable=True)
  ordered = values[order]
  same = jnp.concatenate([jnp.zeros((1,), bool), ordered[1:] == ordered[:-1]])
  return jnp.zeros((n,), bool).at[order].set(same)
