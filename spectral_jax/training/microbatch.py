"""The gradient of a large batch at a small batch's activation memory.

A contrastive loss couples all rows of a batch, so plain gradient accumulation is wrong here: it averages the losses of
small batches, each with few negatives. Instead (GradCache, Gao et al. 2021, arXiv 2101.06983):

1. encode the batch in pieces, keep only the embeddings;
2. take the loss's gradient with respect to all embeddings, every row a negative of every other;
3. encode each piece again, this time with its derivative, and pull its rows of that gradient back to the parameters.

The sum over pieces is the exact gradient of the large batch. It costs one more forward pass. Batch normalization sees
each piece by itself, as in any run with a batch of that size; its running statistics are updated piece by piece, once.
Views are made before the batch is cut, so augmentations are those of the undivided batch.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import jax
import jax.numpy as jnp
from jax import lax

if TYPE_CHECKING:
  from collections.abc import Callable
  from typing import Any

  from jaxtyping import PyTree


def value_and_gradient(encode: Callable[..., Any], loss: Callable[..., Any], params: PyTree, batch_stats: PyTree,
                       views: PyTree, pieces: int) -> Any:
  """Value and exact gradient of `loss(params, encode(params, views))`, encoding in `pieces`.

  Args:
    encode: `(params, batch_stats, views) -> (embeddings, batch_stats)`; views and embeddings are trees of arrays whose
      rows are the batch's examples.
    loss: `(params, embeddings) -> (scalar, aux)`; it may own some of the parameters.
    params: tree of parameters.
    batch_stats: running statistics before the step.
    views: a tree of arrays with b rows, b a multiple of `pieces`.
    pieces: number of pieces.

  Returns:
    `((value, (batch_stats, aux)), gradient)`, as `jax.value_and_grad(..., has_aux=True)` would.
  """
  parts = cut(views, pieces)

  def first(batch_stats, part):
    embeddings, batch_stats = encode(params, batch_stats, part)
    return batch_stats, embeddings

  new_stats, embeddings = lax.scan(first, batch_stats, parts)
  (value, aux), (owned, slopes) = jax.value_and_grad(loss, argnums=(0, 1), has_aux=True)(params, join(embeddings))

  def second(gradient, part_and_slope):
    part, slope = part_and_slope
    # What a layer returns in training mode does not depend on the running statistics: any will do.
    _, pull_back = jax.vjp(lambda params: encode(params, batch_stats, part)[0], params)
    return jax.tree.map(jnp.add, gradient, pull_back(slope)[0]), None

  gradient, _ = lax.scan(second, owned, (parts, cut(slopes, pieces)))
  return (value, (new_stats, aux)), gradient


def cut(tree: PyTree, pieces: int) -> PyTree:
  """Piece m holds rows m, m + pieces, ...: rows sharded in blocks over devices stay where they are."""
  return jax.tree.map(lambda rows: rows.reshape(-1, pieces, *rows.shape[1:]).swapaxes(0, 1), tree)


def join(tree: PyTree) -> PyTree:
  return jax.tree.map(lambda parts: parts.swapaxes(0, 1).reshape(-1, *parts.shape[2:]), tree)
