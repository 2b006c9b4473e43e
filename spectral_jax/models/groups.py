"""Images a few at a time: what is computed of a group stays in the cores' caches, where a whole batch would not."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import jax
import jax.numpy as jnp
from jax import lax

if TYPE_CHECKING:
  from collections.abc import Callable

  from jaxtyping import Array, PyTree, Shaped


def map_images(f: Callable[..., Array], size: int, *arrays: Shaped[Array, "b ..."]) -> Shaped[Array, "b ..."]:
  """`f(*arrays)` for at most `size` images after the other.

  Args:
    f: maps arrays `(g, ...)` to one `(g, ...)`, each image by itself.
    size: the most images in a group.
    *arrays: `(b, ...)` each.

  Returns:
    `(b, ...)`.

  >>> map_images(lambda x: x + 1, 2, jnp.arange(3)).tolist()
  [1, 2, 3]
  """
  def of_device(*arrays):
    if len(arrays[0]) <= size:
      return f(*arrays)
    y = lax.map(lambda group: f(*group), _split(size, arrays))
    return y.reshape(-1, *y.shape[2:])[:len(arrays[0])]

  y = _of_devices(of_device, arrays)
  return y.reshape(-1, *y.shape[2:])


def sum_images(f: Callable[..., PyTree], size: int, *arrays: Shaped[Array, "b ..."]) -> PyTree:
  """The sum of `f(*group)`, a tree, over groups of at most `size` images; `f` sums over images, and of zeros makes 0.

  >>> sum_images(lambda x: jnp.sum(x, axis=0), 2, jnp.arange(4)).tolist()
  6
  """
  def of_device(*arrays):
    if len(arrays[0]) <= size:
      return f(*arrays)
    split = _split(size, arrays)
    zeros = jax.tree.map(lambda one: jnp.zeros(one.shape, one.dtype), jax.eval_shape(f, *(a[0] for a in split)))
    return lax.scan(lambda total, group: (jax.tree.map(jnp.add, total, f(*group)), None), zeros, split)[0]

  return jax.tree.map(lambda sums: jnp.sum(sums, axis=0), _of_devices(of_device, arrays))


def _split(size, arrays):
  """`(groups, images, ...)` each, as few groups as `size` permits; the last is filled up with zeros."""
  images = len(arrays[0])
  count = -(-images // size)
  size = -(-images // count)  # even groups: of 32 images, 28 at a time, the second group would be zeros but for 4
  missing = count * size - images
  padded = [jnp.pad(a, [(0, missing)] + [(0, 0)] * (a.ndim - 1)) if missing else a for a in arrays]
  return [a.reshape(-1, size, *a.shape[1:]) for a in padded]


def _of_devices(f, arrays):
  """`(shards, ...)`: each device loops over its own images; a loop over the batch would gather them on all devices."""
  shards = math.gcd(len(arrays[0]), jax.device_count())
  if shards == 1:
    return jax.tree.map(lambda a: a[None], f(*arrays))
  return jax.vmap(f)(*(a.reshape(shards, -1, *a.shape[1:]) for a in arrays))
