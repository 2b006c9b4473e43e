"""The mesh that a run lives on, and where each array of it lies.

Axes `("data", "model")`. One device is a 1 x 1 mesh, not a special path. Axis types are Auto: the compiler
propagates the shardings of the arguments, so models need no annotations.
"""

import jax
from jax.sharding import AxisType, NamedSharding, PartitionSpec as P


def make_mesh(model_parallel=1, devices=None):
  """Returns a mesh of `devices` (default: all), `model_parallel` of them along "model"."""
  devices = jax.devices() if devices is None else devices
  if model_parallel < 1 or len(devices) % model_parallel:
    raise ValueError(f"model_parallel must divide the number of devices, {len(devices)}; got {model_parallel}")
  shape = (len(devices) // model_parallel, model_parallel)
  return jax.make_mesh(shape, ("data", "model"), axis_types=(AxisType.Auto,) * 2, devices=devices)


def replicated(mesh):
  return NamedSharding(mesh, P())


def over_data(mesh, axis=0):
  """Rows of dimension `axis` spread over the data axis."""
  return NamedSharding(mesh, P(*(None,) * axis, "data"))


def state_shardings(state, mesh):
  """Returns a tree like `state`: everything replicated, but for a projector's kernels over "model".

  Optimiser state mirrors the parameters' names, so its momenta land where their parameters are.
  """
  wide = mesh.shape["model"]

  def place(path, leaf):
    name = jax.tree_util.keystr(path).lower()
    splits = wide > 1 and "projector" in name and leaf.ndim == 2 and leaf.shape[1] % wide == 0
    return NamedSharding(mesh, P(None, "model") if splits else P())

  return jax.tree_util.tree_map_with_path(place, state)
