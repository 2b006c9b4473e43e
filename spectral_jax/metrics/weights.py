"""How far the parameters of two models of one architecture are apart."""

from __future__ import annotations

from typing import TYPE_CHECKING

import jax
import jax.numpy as jnp
from jax import lax

from spectral_jax import _arrays
from spectral_jax.metrics import _moments

if TYPE_CHECKING:
  from jaxtyping import Array, ArrayLike, Float, PyTree


def weight_gap(params_a: PyTree[Float[ArrayLike, "..."]],
               params_b: PyTree[Float[ArrayLike, "..."]]) -> Float[Array, ""]:
  """Mean over the parameter arrays of their distance by their mean size.

  `mean_l ||w_l - w'_l||_F / (0.5 (||w_l||_F + ||w'_l||_F))`: 0 for equal parameters, about 1.41 for unrelated ones of
  equal size, 2 at most. Each array of the tree, bias and scale too, is one l.

  Args:
    params_a: a pytree of floating-point arrays, such as Flax parameters.
    params_b: the other model's, of the same structure and shapes.

  Returns:
    A scalar of at least float32. Two arrays of zeros, as fresh biases are, have gap 0. NaN if an entry is NaN.

  Raises:
    TypeError: an array that is not floating-point. ValueError: no array, or structures or shapes that differ.

  >>> import jax.numpy as jnp
  >>> params = {"kernel": jnp.ones(4), "bias": jnp.zeros(2)}
  >>> print(weight_gap(params, {**params, "kernel": 3 * jnp.ones(4)}))
  0.5

  Reference: arXiv 2510.08852.
  """
  a, b = jax.tree.structure(params_a), jax.tree.structure(params_b)
  if a != b:
    raise ValueError(f"params_a and params_b must have the same structure, got {a} and {b}; compare models of one "
                     "architecture")
  named = jax.tree_util.tree_leaves_with_path(params_a)
  if not named:
    raise ValueError("params_a must hold at least one array, got none")
  pairs = []
  for (path, left), right in zip(named, jax.tree.leaves(params_b)):
    name = jax.tree_util.keystr(path)
    left, right = _arrays.as_float(f"params_a{name}", left), _arrays.as_float(f"params_b{name}", right)
    if left.shape != right.shape:
      raise ValueError(f"params_a and params_b must have the same shapes, got {left.shape} and {right.shape} at {name}")
    pairs.append((left, right))
  return _mean_gap(pairs)


@jax.jit
def _mean_gap(pairs):
  return jnp.mean(jnp.stack([_gap(*pair) for pair in pairs]))


def _gap(a, b):
  if a.size == 0:
    return jnp.zeros((), jnp.promote_types(a.dtype, b.dtype))
  scale = _moments.power_of_two(lax.stop_gradient(jnp.maximum(jnp.max(jnp.abs(a)), jnp.max(jnp.abs(b)))))
  a, b = a / scale, b / scale  # exact; squares then neither overflow nor vanish
  apart, *sizes = (_root(_moments.total(w * w)) for w in (a - b, a, b))
  size = (sizes[0] + sizes[1]) / 2
  return jnp.where(size == 0, 0.0, apart / jnp.where(size == 0, 1.0, size))


def _root(square):
  """The square root, with derivative 0 at 0."""
  return jnp.where(square == 0, 0.0, jnp.sqrt(jnp.where(square == 0, 1.0, square)))
