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
    ValueError: `axis` is not an axis of the mesh, or rows that the axis does not divide.

  Example:
    >>> import jax, jax.numpy as jnp
    >>> from spectral_jax import losses
    >>> mesh = jax.make_mesh((1,), ("data",), axis_types=(jax.sharding.AxisType.Auto,))
    >>> print(f"{losses.sharded(losses.nt_xent, mesh)(jnp.eye(4), jnp.eye(4), temperature=1.0):.4f}")
    1.1654
  """
  if axis not in mesh.shape:
    raise ValueError(f"axis must be one of the mesh's axes {tuple(mesh.shape)}, got {axis!r}")

  @functools.wraps(loss)
  def over_mesh(*args, **kwargs):
    leaves, tree = jax.tree.flatten((args, kwargs), is_leaf=lambda x: x is None)
    is_array = [not isinstance(x, (str, bool, type(None))) and not callable(x) and hasattr(x, "ndim") for x in leaves]
    static = [None if array else x for x, array in zip(leaves, is_array)]
    arrays = [x for x, array in zip(leaves, is_array) if array]
    for x in arrays:
      if x.ndim and x.shape[0] % mesh.shape[axis]:
        raise ValueError(
            f"axis {axis!r} has {mesh.shape[axis]} devices, which do not divide {x.shape[0]} rows of an argument of shape "
            f"{x.shape}; pad it and mask the padding with where=")

    def on_device(*arrays):
      rest = iter(arrays)
      args, kwargs = jax.tree.unflatten(tree, [next(rest) if array else x for x, array in zip(static, is_array)])
      return loss(*args, **kwargs, axis_name=axis)

    specs = tuple(PartitionSpec(axis) if x.ndim else PartitionSpec() for x in arrays)
    per_anchor = kwargs.get("reduction", getattr(loss, "keywords", {}).get("reduction")) == "none"
    out = PartitionSpec(axis) if per_anchor else PartitionSpec()
    return jax.shard_map(on_device, mesh=mesh, in_specs=specs, out_specs=out)(*map(jnp.asarray, arrays))

  return over_mesh
