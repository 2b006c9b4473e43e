"""The embedding bank: where every training image lies now, for the rules that choose batches by it.

Rows are the projector's outputs of the undistorted images in evaluation mode, cosine-normalized, since that is the
space the loss works in. They lie sharded over the data axis; the row count is rounded up to a multiple of the shards.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from spectral_jax._arrays import unit_rows
from spectral_jax.evaluation.features import read_batches
from spectral_jax.mesh import local, over_data, place, replicated
from spectral_jax.training.state import averaged_variables, variables

if TYPE_CHECKING:
  from typing import Any

  from jax.sharding import Mesh

  from spectral_jax._types import Config
  from spectral_jax.data.dataset import Dataset


class Bank(NamedTuple):
  empty: Callable        # () -> a bank of zeros, of the shape, dtype and sharding of every later one
  refresh: Callable      # state -> the bank of the main learner's encoder, or of its moving average
  rows: Callable         # bank -> its rows of real images, whole, on one device of this process


def make_bank(config: Config, program: Any, dataset: Dataset, mesh: Mesh, batch_size: int) -> Bank:
  """Returns the `Bank` that `config.bank` describes."""
  sharding, shards, size = over_data(mesh), mesh.shape["data"], dataset.train.size
  count = -(-size // shards) * shards
  batch_size = min(-(-batch_size // shards) * shards, count)
  chosen_variables = averaged_variables if config.momentum else variables

  def embed(network, images):
    return unit_rows(program.encode(network, images)[1]).astype(config.dtype)

  def width():
    images = jax.ShapeDtypeStruct((shards, *dataset.image_shape), jnp.uint8)
    network = jax.eval_shape(lambda: variables(program.init(0).learners[program.main]))
    return jax.eval_shape(program.encode, network, images)[1].shape[1]

  embed = jax.jit(embed, out_shardings=sharding)
  join = jax.jit(lambda parts: jnp.concatenate(parts)[:count], out_shardings=sharding)
  gather = jax.jit(lambda bank: bank[:size], out_shardings=replicated(mesh))

  def empty():
    shape = (count, width())
    return jax.jit(lambda: jnp.zeros(shape, config.dtype), out_shardings=sharding)()

  def refresh(state):
    network = chosen_variables(state.learners[program.main])
    indices = np.arange(size, dtype=np.int32)
    return join([embed(network, place(images, sharding))
                 for images in read_batches(dataset.train, indices, batch_size, what="embedding")])

  def rows(bank):
    """Selection runs beside the training steps. On one device it has no collectives, so it cannot come between those of
    a step; one device's memory holds a million rows with ease. Gathered by all processes, at the same point of each."""
    return local(gather(bank))

  return Bank(empty, refresh, rows)
