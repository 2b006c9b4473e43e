"""Losses over arrays whose rows are sharded over a mesh axis."""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING

import jax
import jax.numpy as jnp
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from spectral_jax import _arrays
from spectral_jax.losses._global import global_contrastive

if TYPE_CHECKING:
  from collections.abc import Callable
  from typing import Any


def sharded(loss: Callable[..., Any], mesh: Mesh, *, axis: str = "data") -> Callable[..., Any]:
  """The same loss on arrays sharded over `axis`: global negatives, exact global value and gradient.

  Each device keeps its rows; blocks of rows travel round the ring of devices and meet them tile by tile, so that no
  device ever holds the whole similarity matrix, nor all rows.

  Args:
    loss: a function of `spectral_jax.losses`, or a `functools.partial` of one.
    mesh: the `jax.sharding.Mesh`; its axes may be of any type, and the mesh may be set (`jax.set_mesh`).
    axis: name of the mesh axis that rows are sharded over; other axes hold copies.

  Returns:
    A function of the loss's arguments. Arrays with rows (embeddings, labels, `where`, `negatives`) are sharded over
    `axis`, scalars are replicated. With `reduction="none"` the result is sharded as the rows are, and so are the
    averages of `global_contrastive`.

  Raises:
    TypeError: `mesh` is not a mesh; an embedding that is not an array.
    ValueError: `axis` is not an axis of the mesh, or rows that the axis does not divide.

  Example:
    >>> import jax, jax.numpy as jnp
    >>> from spectral_jax import losses
    >>> mesh = jax.make_mesh((1,), ("data",))
    >>> print(f"{losses.sharded(losses.nt_xent, mesh)(jnp.eye(4), jnp.eye(4), temperature=1.0):.4f}")
    1.1654
  """
  if not callable(loss):
    raise TypeError(f"loss must be a loss function such as losses.nt_xent, got {loss!r}")
  if not isinstance(mesh, Mesh):
    raise TypeError(f"mesh must be a jax.sharding.Mesh, got {mesh!r}; make one with jax.make_mesh((devices,), "
                    f"({axis!r},))")
  if axis not in mesh.shape:
    raise ValueError(f"axis must be one of the mesh's axes {tuple(mesh.shape)}, got {axis!r}")

  given = {}
  while isinstance(loss, functools.partial):  # its arrays are sharded like the caller's own
    if loss.args:
      raise ValueError(f"loss must be a partial with keywords only, got positional arguments {loss.args}; name them")
    given = {**loss.keywords, **given}
    loss = loss.func

  @functools.wraps(loss)
  def over_mesh(*args, **kwargs):
    kwargs = {**given, **kwargs}
    values = [_array_of_list(x) for x in (*args, *kwargs.values())]
    for x in values:
      if _is_dynamic(x) and jnp.ndim(x) and x.shape[0] % mesh.shape[axis]:
        raise ValueError(
            f"axis {axis!r} has {mesh.shape[axis]} devices, which do not divide {x.shape[0]} rows of an argument of "
            f"shape {x.shape}; pad it and mask the padding with where=")
    static = tuple(_ARRAY if _is_dynamic(x) else x for x in values)
    arrays = [jnp.asarray(x) for x in values if _is_dynamic(x)]
    over, form = _mesh_of_call(mesh)
    specs = tuple(PartitionSpec(axis) if x.ndim else PartitionSpec() for x in arrays)
    if form == "moved":
      arrays = [jax.device_put(x, NamedSharding(over, spec)) for x, spec in zip(arrays, specs)]
    return _compiled(loss, over, axis, form == "set", tuple(kwargs), static, specs)(*arrays)

  return over_mesh


_ARRAY = "<array>"  # holds the place of an array among the static arguments


def _array_of_list(x):
  return jnp.asarray(x) if isinstance(x, (list, tuple)) else x


def _is_dynamic(x):
  """Arrays and floats vary from call to call; integers, booleans and names are settings."""
  return isinstance(x, float) or (_arrays.is_array(x) and not isinstance(x, int))


def _mesh_of_call(mesh):
  """The mesh to compute on, and how arrays come to it.

  "given": shard_map takes them as they are. Axes of type Explicit, `jax.make_mesh`'s default, want arrays that already
  have the right sharding in their type: with the mesh set they are resharded ("set"); with none set, types of several
  devices may not appear outside `jit`, so the arrays move to the same mesh with Auto axes ("moved").
  """
  if AxisType.Explicit not in mesh.axis_types:
    return mesh, "given"
  if not jax.sharding.get_abstract_mesh().empty:
    return mesh, "set"
  return Mesh(mesh.devices, mesh.axis_names, axis_types=(AxisType.Auto,) * len(mesh.axis_names)), "moved"


@functools.lru_cache(maxsize=256)
def _compiled(loss, mesh, axis, reshard, names, static, specs):
  """The loss over the mesh for one pattern of arguments: static ones by value, arrays in order."""

  def on_device(*arrays):
    rest = iter(arrays)
    values = [next(rest) if x is _ARRAY else x for x in static]
    count = len(values) - len(names)
    return loss(*values[:count], **dict(zip(names, values[count:])), axis_name=axis)

  rows, scalar = PartitionSpec(axis), PartitionSpec()
  per_anchor = dict(zip(names, static[len(static) - len(names):])).get("reduction") == "none"
  of_loss = rows if per_anchor else scalar
  out_specs = (of_loss, rows) if loss is global_contrastive else of_loss  # whose averages have rows too
  on_mesh = jax.shard_map(on_device, mesh=mesh, in_specs=specs, out_specs=out_specs)
  if not reshard:
    return jax.jit(on_mesh)
  return jax.jit(lambda *arrays: on_mesh(
      *(jax.sharding.reshard(x, NamedSharding(mesh, spec)) for x, spec in zip(arrays, specs))))
