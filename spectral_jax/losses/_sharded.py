"""Losses over arrays whose rows are sharded over a mesh axis."""

import functools

import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec


def sharded(loss, mesh, *, axis="data"):
  """The same loss on arrays sharded over `axis`: global negatives, exact global value and gradient.

  Each device keeps its rows; blocks of rows travel round the ring of devices and meet them tile by tile, so that no
  device ever holds the whole similarity matrix, nor all rows.

  Args:
    loss: a function of `spectral_jax.losses`, or a `functools.partial` of one.
    mesh: the `jax.sharding.Mesh`.
    axis: name of the mesh axis that rows are sharded over; other axes hold copies.

  Returns:
    A function of the loss's arguments. Arrays with rows (embeddings, labels, `where`, `negatives`) are sharded over
    `axis`, scalars are replicated. With `reduction="none"` the result is sharded as the rows are.

  Raises:
    TypeError: `mesh` is no mesh.
    ValueError: `axis` is not an axis of the mesh, or rows that the axis does not divide.

  Example:
    >>> import jax, jax.numpy as jnp
    >>> from spectral_jax import losses
    >>> mesh = jax.make_mesh((1,), ("data",), axis_types=(jax.sharding.AxisType.Auto,))
    >>> print(f"{losses.sharded(losses.nt_xent, mesh)(jnp.eye(4), jnp.eye(4), temperature=1.0):.4f}")
    1.1654
  """
  if not hasattr(mesh, "shape"):
    raise TypeError(f"mesh must be a jax.sharding.Mesh, got {mesh!r}; make one with jax.make_mesh((devices,), ({axis!r},))")
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
    leaves, tree = jax.tree.flatten((args, kwargs))
    arrays = [jnp.asarray(x) for x in leaves if _is_array(x)]
    for x in arrays:
      if x.ndim and x.shape[0] % mesh.shape[axis]:
        raise ValueError(
            f"axis {axis!r} has {mesh.shape[axis]} devices, which do not divide {x.shape[0]} rows of an argument of shape "
            f"{x.shape}; pad it and mask the padding with where=")
    static = tuple(_ARRAY if _is_array(x) else x for x in leaves)
    return _compiled(loss, mesh, axis, tree, static, tuple(x.ndim for x in arrays))(*arrays)

  return over_mesh


_ARRAY = "<array>"  # holds the place of an array among the static arguments


def _is_array(x):
  return isinstance(x, float) or hasattr(x, "ndim")


@functools.lru_cache(maxsize=256)
def _compiled(loss, mesh, axis, tree, static, ranks):
  """The loss over the mesh for one pattern of arguments: static ones by value, arrays in order."""

  def on_device(*arrays):
    rest = iter(arrays)
    leaves = [next(rest) if x is _ARRAY else x for x in static]
    args, kwargs = jax.tree.unflatten(tree, leaves)
    return loss(*args, **kwargs, axis_name=axis)

  _, kwargs = jax.tree.unflatten(tree, static)
  per_anchor = kwargs.get("reduction") == "none"
  sharded_rows = PartitionSpec(axis)
  in_specs = tuple(sharded_rows if rank else PartitionSpec() for rank in ranks)
  out_specs = sharded_rows if per_anchor else PartitionSpec()
  return jax.jit(jax.shard_map(on_device, mesh=mesh, in_specs=in_specs, out_specs=out_specs))
