"""The mesh that a run lives on, where each array of it lies, and the one way from a host to its devices.

Axes `("data", "model")`. One device is a 1 x 1 mesh, not a special path, and so is one process: every process holds the
rows of its own devices. Axis types are Auto: the compiler propagates the shardings of the arguments, so models need no
annotations.
"""

from __future__ import annotations

import itertools
import re
from typing import TYPE_CHECKING

import jax
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import AxisType, NamedSharding, PartitionSpec as P

from spectral_jax._errors import ConfigError
from spectral_jax._names import check_name

if TYPE_CHECKING:
  from collections.abc import Sequence
  from typing import Any

  from jax.sharding import AbstractMesh, Mesh
  from jaxtyping import Array, ArrayLike, PyTree

PLACEMENTS = ("replicate", "columns", "fsdp")


def make_mesh(model_parallel: int = 1, devices: Sequence[Any] | None = None) -> Mesh:
  """Returns a mesh of `devices` (default: all of all processes), `model_parallel` of them along "model"."""
  devices = jax.devices() if devices is None else devices
  if model_parallel < 1 or len(devices) % model_parallel:
    raise ConfigError(f"config.model_parallel must divide the number of devices, {len(devices)}; got {model_parallel}")
  shape = (len(devices) // model_parallel, model_parallel)
  return jax.make_mesh(shape, ("data", "model"), axis_types=(AxisType.Auto,) * 2, devices=devices)


def replicated(mesh: Mesh) -> NamedSharding:
  return NamedSharding(mesh, P())


def over_data(mesh: Mesh, axis: int = 0) -> NamedSharding:
  """Rows of dimension `axis` spread over the data axis."""
  return NamedSharding(mesh, P(*(None,) * axis, "data"))


def place(array: ArrayLike, sharding: NamedSharding) -> Array:
  """Returns a global array made of a host array that every process holds whole; each sends its devices' part alone."""
  if sharding.is_fully_addressable:
    return jax.device_put(array, sharding)
  array = np.asarray(array)
  return jax.make_array_from_callback(array.shape, sharding, lambda index: array[index])


def place_columns(columns: np.ndarray, sharding: NamedSharding, shape: tuple[int, ...]) -> Array:
  """Returns a global array of `shape` from the part that each process holds alone: `host_columns` of its batch axis."""
  if sharding.is_fully_addressable:
    return jax.device_put(columns, sharding)
  return jax.make_array_from_process_local_data(sharding, columns, shape)


def host_columns(sharding: NamedSharding, batch_size: int) -> slice:
  """The slice of a batch of `batch_size` rows, spread by `sharding`, whose rows lie on this process's devices.

  Raises:
    ConfigError: they are not one block, which no order of devices that JAX makes has.
  """
  if sharding.is_fully_addressable:
    return slice(0, batch_size)
  parts: Any = sharding.addressable_devices_indices_map((batch_size,)).values()
  spans = sorted({(part[0].start or 0, batch_size if part[0].stop is None else part[0].stop) for part in parts})
  if any(a[1] != b[0] for a, b in itertools.pairwise(spans)):
    raise ConfigError(f"this process's devices hold the rows {spans} of a batch, which are not one block; "
                      "order the mesh's devices by process")
  return slice(spans[0][0], spans[-1][1])


def local(array: Array) -> Array:
  """The whole of a replicated array as it lies on this process's first device."""
  if not array.is_fully_replicated:
    raise ValueError(f"the array must be replicated, its sharding is {array.sharding}")
  return array.addressable_data(0)


def of_lead(array: np.ndarray) -> np.ndarray:
  """A host array as process 0 has it: what several computed may differ in its last bits where their machines do."""
  return array if jax.process_count() == 1 else multihost_utils.broadcast_one_to_all(array)


def check_sharding(rules: Sequence[Sequence[str]]) -> None:
  """Raises ConfigError for rules that `state_shardings` could not follow."""
  for rule in rules:
    if not isinstance(rule, (tuple, list)) or len(rule) != 2 or not all(isinstance(part, str) for part in rule):
      raise ConfigError(f"config.sharding must hold pairs (regular expression, placement), got {rule!r}")
    try:
      re.compile(rule[0])
    except re.error as error:
      raise ConfigError(f"config.sharding has {rule[0]!r}, which is not a regular expression: {error}") from None
    check_name("sharding", rule[1], PLACEMENTS)


def state_shardings(state: PyTree, mesh: Mesh | AbstractMesh, rules: Sequence[Sequence[str]] = ()) -> PyTree:
  """Returns a tree like `state` of where each array lies, by the first rule whose expression is found in its name.

  Args:
    state: a tree of arrays or shapes.
    mesh: from `make_mesh`.
    rules: pairs `(regular expression, placement)`. A name is the path in the tree, lower case, such as
      "learners/main/params/model/projector/dense_0/kernel"; the optimizer's momenta carry the names of the parameters
      that they belong to, and land beside them. Placements: "replicate" (also where no rule fits), "columns" (a
      matrix's last dimension over "model"), "fsdp" (the largest dimension that divides, over "data": parameters,
      momenta and average are fully sharded, and gathered layer by layer in the step). An array that does not divide is
      replicated.
  """
  def of(path, leaf):
    name = jax.tree_util.keystr(path, simple=True, separator="/").lower()
    placement = next((placement for pattern, placement in rules if re.search(pattern, name)), "replicate")
    return NamedSharding(mesh, _spec(placement, leaf.shape, mesh))

  return jax.tree_util.tree_map_with_path(of, state)


def _spec(placement, shape, mesh):
  if placement == "columns" and mesh.shape["model"] > 1 and len(shape) == 2 and shape[1] % mesh.shape["model"] == 0:
    return P(None, "model")
  if placement == "fsdp" and mesh.shape["data"] > 1:
    fits = [(size, axis) for axis, size in enumerate(shape) if size % mesh.shape["data"] == 0 and size]
    if fits:
      return P(*(None,) * max(fits)[1], "data")
  return P()
