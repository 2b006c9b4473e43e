"""Blocks of rows that travel around a mesh axis, inside `shard_map`.

`own` stays on its device, `block` travels and `load` is what the block gathers on its way: `visit(own, block, load)`
works off the meeting of a device's rows with a block and returns the new `(own, load)`. With `axis_name=None` one
device is alone.
"""

from jax import lax


def _shift(tree, axis_name, by):
  if axis_name is None:
    return tree
  size = lax.axis_size(axis_name)
  return lax.ppermute(tree, axis_name, [(r, (r + by) % size) for r in range(size)])


def _hops(axis_name, visit, carry, count):
  if count == 0:  # XLA of JAX 0.11 ends the process over a loop of no turns with a transfer in it
    return carry

  def hop(carry, _):
    own, block, load = carry
    following = _shift(block, axis_name, 1)  # does not wait for the visit: the transfer overlaps it
    own, load = visit(own, block, load)
    return (own, following, _shift(load, axis_name, 1)), None

  return lax.scan(hop, carry, length=count)[0]


def whole_ring(axis_name, visit, own, block, load):
  """Every block visits every device, beginning with its own, and is home again at the end."""
  if axis_name is None:
    return visit(own, block, load)
  own, _, load = _hops(axis_name, visit, (own, block, load), lax.axis_size(axis_name))
  return own, load


def half_ring(axis_name, visit, own, block, load):
  """Every two devices' blocks meet once: each block visits half of the others, then its load goes home.

  With an even number of devices, opposite ones meet twice: each then works for its own rows alone (`load` is None).
  """
  size = 1 if axis_name is None else lax.axis_size(axis_name)
  if size == 1:
    return own, load
  hops = (size - 1) // 2
  own, block, load = _hops(axis_name, visit, (own, _shift(block, axis_name, 1), load), hops)
  if size % 2 == 0:
    own, _ = visit(own, block, None)
  return own, _shift(load, axis_name, -hops - 1)
