"""The embedding bank: where every training image lies now, for the rules that choose batches by it.

Rows are the projector's outputs of the undistorted images in evaluation mode, cosine-normalised, since that is the
space the loss works in. They lie sharded over the data axis; the row count is rounded up to a multiple of the shards.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np

from spectral_jax._arrays import unit_rows
from spectral_jax.evaluation.features import read_batches
from spectral_jax.training.mesh import over_data
from spectral_jax.training.state import averaged_variables, variables


def empty_bank(run):
  """A bank of zeros, of the shape, dtype and sharding of every later one."""
  shape = (_rows(run), _width(run))
  return jax.jit(lambda: jnp.zeros(shape, run.config.bank.dtype), out_shardings=over_data(run.mesh))()


def make_refresh(run):
  """Returns `refresh(state) -> (rows, p)`: the bank of the state's encoder, or of its moving average."""
  config, sharding = run.config, over_data(run.mesh)
  shards = run.mesh.shape["data"]
  batch_size = min(-(-config.eval.batch_size // shards) * shards, _rows(run))
  chosen_variables = averaged_variables if config.bank.momentum else variables
  embed, join = _jitted(run.encode, sharding, config.bank.dtype, _rows(run))

  def refresh(state):
    indices = np.arange(run.dataset.train.size, dtype=np.int32)
    return join([embed(chosen_variables(state), jax.device_put(images, sharding))
                 for images in read_batches(run.dataset.train, indices, batch_size)])

  return refresh


@functools.lru_cache(8)
def _jitted(encode, sharding, dtype, rows):
  """Kept, so that runs that share an encoder share what was compiled for it."""

  def embed(state_variables, images):
    return unit_rows(encode(state_variables, images)[1]).astype(dtype)

  def join(parts):
    return jnp.concatenate(parts)[:rows]

  return jax.jit(embed, out_shardings=sharding), jax.jit(join, out_shardings=sharding)


def on_one_device(run, bank):
  """The bank's rows of real images on the mesh's first device.

  Selection runs beside the training steps. Kept to one device it has no collectives, so it cannot come between
  those of a step; one device's memory holds a million rows with ease.
  """
  return jax.device_put(bank, run.mesh.devices.flat[0])[:run.dataset.train.size]


def _rows(run):
  shards = run.mesh.shape["data"]
  return -(-run.dataset.train.size // shards) * shards


def _width(run):
  images = jax.ShapeDtypeStruct((run.mesh.shape["data"], *run.dataset.image_shape), jnp.uint8)
  return jax.eval_shape(lambda images: run.encode(variables(run.init()), images), images)[1].shape[1]
