"""Checkpoints: state, index tables and a few host-side numbers together, written while training goes on.

A checkpoint appears by a rename, so a killed process leaves a whole one or none. Each carries a fingerprint of its
arrays, which is compared when it is read: one that a disk has damaged since is set aside for the one before.
"""

import errno
import logging
import os
import pathlib
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp
from orbax.checkpoint import checkpoint_managers

from spectral_jax.training.batches import Tables

DIRECTORY = "checkpoints"
SET_ASIDE = "damaged_checkpoints"


def open_checkpoints(workdir, config):
  """Returns an orbax manager that keeps the last `config.keep` checkpoints and the one of best kNN accuracy."""
  logging.getLogger("absl").setLevel(logging.ERROR)  # orbax narrates every write
  keep = checkpoint_managers.AnyPreservationPolicy([
      checkpoint_managers.LatestN(config.keep),
      checkpoint_managers.BestN(get_metric_fn=_accuracy, n=1, keep_checkpoints_without_metrics=False)])
  options = ocp.CheckpointManagerOptions(
      preservation_policy=keep,
      save_decision_policy=checkpoint_managers.FixedIntervalPolicy(1),  # the loop decides when
      cleanup_tmp_directories=True,
      enable_async_checkpointing=True)
  return ocp.CheckpointManager((pathlib.Path(workdir) / DIRECTORY).absolute(), options=options)


def _accuracy(metrics):
  return metrics["knn_accuracy"]


def save(manager, step, state, tables, host, metrics=None):
  """Starts writing a checkpoint; returns as soon as the arrays have left the device.

  Args:
    manager: from `open_checkpoints`.
    step: updates made so far.
    state: the state after them.
    tables: the present `batches.Tables`.
    host: a dict of plain numbers to carry along, e.g. the seconds trained so far.
    metrics: `{"knn_accuracy": ...}` where the step was evaluated.

  Raises:
    OSError: the disk has no room for it.
  """
  arrays = {"state": state._asdict(), "tables": _present(tables), "fingerprint": fingerprint((state, tables.bank))}
  _check_room(manager.directory, sum(getattr(leaf, "nbytes", 8) for leaf in jax.tree.leaves(arrays)))
  manager.save(
      step, metrics=metrics,
      args=ocp.args.Composite(arrays=ocp.args.StandardSave(arrays), host=ocp.args.JsonSave(host)))


def _check_room(folder, needed):
  """Orbax finds a full disk in its threads, and reports it with a page from each."""
  free = shutil.disk_usage(folder).free
  if free < needed:
    raise OSError(errno.ENOSPC, f"a checkpoint takes {needed / 2**20:,.1f} MiB, {free / 2**20:,.1f} are free", str(folder))


def restore_latest(manager, state, tables):
  """Returns `(state, tables, host)` of the newest whole checkpoint, or None if there is none.

  `state` and `tables` are examples: their shapes, dtypes and shardings. Damaged checkpoints are moved aside, each with
  a warning.
  """
  for step in sorted(manager.all_steps(), reverse=True):
    try:
      return _restore(manager, step, state, tables)
    except Exception as error:  # whatever a damaged file makes orbax raise
      _set_aside(manager, step, error)
  return None


def _restore(manager, step, state, tables):
  shapes, bank = jax.tree.map(
      lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding), (state._asdict(), tables.bank))
  example = {
      "state": shapes,
      "tables": {**_present(tables._replace(bank=bank)), "epoch": 0},
      "fingerprint": jax.ShapeDtypeStruct((), jnp.uint32, sharding=state.step.sharding)}
  read = manager.restore(
      step, args=ocp.args.Composite(arrays=ocp.args.StandardRestore(example), host=ocp.args.JsonRestore()))
  restored = type(state)(**read.arrays["state"])
  kept = read.arrays["tables"]
  bank = kept.get("bank")
  if int(fingerprint((restored, bank))) != int(read.arrays["fingerprint"]):
    raise ValueError("its arrays are not those that were written")
  if int(restored.step) != step:
    raise ValueError(f"it holds step {int(restored.step)}")
  tables = Tables(int(kept["epoch"]), np.asarray(kept["present"]), np.asarray(kept["following"]), bank)
  return restored, tables, read.host


def _present(tables):
  """As a dictionary, without the bank where there is none."""
  return {name: value for name, value in tables._asdict().items() if value is not None}


def _set_aside(manager, step, error):
  root = pathlib.Path(manager.directory)
  aside = root.parent / SET_ASIDE
  aside.mkdir(exist_ok=True)
  target = aside / f"{step}-{len(list(aside.iterdir()))}"
  os.replace(root / str(step), target)
  manager.reload()
  reason = str(error).splitlines()[0] if str(error) else type(error).__name__
  print(f"The checkpoint of step {step} is damaged ({reason[:200]}); moved to {target}. Going on from the one before.")


@jax.jit
def fingerprint(tree):
  """A uint32 that changes with any bit of the arrays: a weighted sum of their words, modulo 2^32."""
  total = jnp.zeros((), jnp.uint32)
  for leaf in jax.tree.leaves(tree):
    words = jax.lax.bitcast_convert_type(leaf, jnp.dtype(f"uint{leaf.dtype.itemsize * 8}")).astype(jnp.uint32).ravel()
    place = jnp.arange(words.size, dtype=jnp.uint32) * 2 + 1  # odd, so that no single changed bit cancels
    total = total * jnp.uint32(1000003) + jnp.sum(words * place, dtype=jnp.uint32)
  return total
