"""Checkpoints: a tree of arrays and a few plain numbers together, written while training goes on.

A checkpoint appears by a rename, so a killed process leaves a whole one or none. It holds the checksums of its files.
One that cannot be read is set aside only where these prove damage, or where the arrays that came back are not those
that were written; any other failure (memory, a network file system's hiccup, another model) stops the run and touches
nothing.
"""

from __future__ import annotations

import errno
import json
import logging
import os
import pathlib
import shutil
import zlib
from typing import TYPE_CHECKING

import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp
from orbax.checkpoint import checkpoint_managers

from spectral_jax._errors import RunError
from spectral_jax.workdir.folder import is_lead, lead_alone, worst, write_json

if TYPE_CHECKING:
  from collections.abc import Mapping
  from typing import Any, TypeAlias

  from jaxtyping import Array, PyTree, UInt32

  Manager: TypeAlias = Any  # an orbax CheckpointManager; what it restores has attributes that its types do not know

DIRECTORY = "checkpoints"
SET_ASIDE = "damaged_checkpoints"
REPLACED = "replaced_checkpoints"
CHECKSUMS = "checksums.json"
# 1: one learner, without this number. 2: learners by name.
FORMAT = 2
BLOCK = 2**22


def open_checkpoints(folder: str | pathlib.Path, keep: int = 1, *, read_only: bool = False) -> Manager:
  """Returns an orbax manager that keeps the last `keep` checkpoints and the one of best kNN accuracy."""
  logging.getLogger("absl").setLevel(logging.ERROR)  # orbax logs every write
  root = (pathlib.Path(folder) / DIRECTORY).absolute()
  if not read_only:
    with lead_alone() as alone:
      if alone:
        _clear(root)
  policy = checkpoint_managers.AnyPreservationPolicy([
      checkpoint_managers.LatestN(keep),
      checkpoint_managers.BestN(get_metric_fn=_accuracy, n=1, keep_checkpoints_without_metrics=False)])
  options = ocp.CheckpointManagerOptions(
      preservation_policy=policy, best_fn=_accuracy,
      save_decision_policy=checkpoint_managers.FixedIntervalPolicy(1),  # the loop decides when
      cleanup_tmp_directories=not read_only, read_only=read_only, create=not read_only,
      enable_async_checkpointing=True,
      async_options=ocp.AsyncOptions(post_finalization_callback=lambda: _seal(root) if is_lead() else None))
  return ocp.CheckpointManager(root, options=options)


def _accuracy(metrics):
  return metrics["knn_accuracy"]


def best(manager: Manager) -> tuple[int, float] | None:
  """Returns `(step, accuracy)` of the checkpoint of best kNN accuracy, or None where none was evaluated."""
  scored = [step for step in manager.all_steps() if manager.metrics(step)]
  if not scored:
    return None
  step = manager.best_step()
  return None if step is None else (step, _accuracy(manager.metrics(step)))


def save(manager: Manager, step: int, content: PyTree, host: Mapping[str, Any],
         metrics: Mapping[str, float] | None = None) -> None:
  """Starts writing a checkpoint; returns as soon as the arrays have left the device, or replaces one at once.

  Args:
    manager: from `open_checkpoints`.
    step: updates made so far. A checkpoint of it that is there already is replaced.
    content: a tree of arrays and integers; `content["state"]["step"]` is the step.
    host: a dict of plain numbers to carry along, e.g. the seconds trained so far.
    metrics: `{"knn_accuracy": ...}` where the step was evaluated.

  Raises:
    OSError: the disk has no room for it.
  """
  arrays = {**content, "fingerprint": fingerprint(_arrays(content))}
  replaces = step in manager.all_steps()
  if replaces:
    manager.wait_until_finished()
    with lead_alone() as alone:
      if alone:
        _put_by(manager, step)
    manager.reload()
  _check_room(manager.directory, sum(getattr(leaf, "nbytes", 8) for leaf in jax.tree.leaves(arrays)))
  manager.save(
      step, metrics=metrics,
      args=ocp.args.Composite(arrays=ocp.args.StandardSave(arrays),
                              host=ocp.args.JsonSave({"format": FORMAT, **host})))
  if replaces:
    manager.wait_until_finished()
    with lead_alone() as alone:
      if alone:
        _clear(pathlib.Path(manager.directory))


def _put_by(manager, step):
  """Makes room for a new checkpoint of a step; the old one comes back should the new one not be finished."""
  root = pathlib.Path(manager.directory)
  folder = root.parent / REPLACED
  folder.mkdir(exist_ok=True)
  os.replace(root / str(step), folder / str(step))


def _clear(root):
  """Ends what `_put_by` began: removes a checkpoint that has been replaced, puts one back that was going to be."""
  for old in (root.parent / REPLACED).glob("*"):
    if (root / old.name).exists():
      shutil.rmtree(old)
    else:
      os.replace(old, root / old.name)


def _check_room(folder, needed):
  """Orbax finds a full disk in its threads, and reports it with a page from each."""
  free = shutil.disk_usage(folder).free
  if free < needed:
    raise OSError(errno.ENOSPC, f"a checkpoint takes {needed / 2**20:,.1f} MiB, {free / 2**20:,.1f} are free",
                  str(folder))


def restore_latest(manager: Manager, example: PyTree) -> tuple[PyTree, dict[str, Any]] | None:
  """Returns `(content, host)` of the newest whole checkpoint, or None where none was ever written.

  Args:
    manager: from `open_checkpoints`.
    example: a tree like `content`: its shapes, dtypes and shardings.

  Raises:
    RunError: a checkpoint cannot be read though nothing proves it damaged, was written by another version or by another
      model; or all that there were are damaged. Damaged ones are moved aside, each with a warning.
  """
  steps = sorted(manager.all_steps(), reverse=True)
  for step in steps:
    found, failure = _attempt(manager, step, example)
    # Each process reads its part; all do what the worst off must.
    verdict = worst(0 if failure is None else 1 if isinstance(failure, Damaged) else 2)
    if verdict == 0:
      return found
    if verdict == 2:
      raise failure or RunError(f"another process could not read the checkpoint of step {step}; its message says why")
    with lead_alone() as alone:
      if alone:
        moved = _set_aside(manager, step)
        print(f"The checkpoint of step {step} is damaged ({failure or 'says another process'}); moved to {moved}.")
    manager.reload()
  aside = pathlib.Path(manager.directory).parent / SET_ASIDE
  if steps or aside.exists():
    raise RunError(f"No whole checkpoint is left; the damaged ones are in {aside}. "
                   "Use --restart to start again from step 0; what is there is kept under another name.")
  return None


def _attempt(manager, step, example):
  """What `restore` returns, and what it raises."""
  try:
    return restore(manager, step, example), None
  except RunError as error:
    return None, error


class Damaged(RunError):
  """A checkpoint that is not what was written."""


def restore(manager: Manager, step: int, example: PyTree) -> tuple[PyTree, dict[str, Any]]:
  """Returns `(content, host)` of one checkpoint, with the shapes, dtypes and shardings of `example`.

  Raises:
    Damaged: its files or arrays are not those that were written.
    RunError: it cannot be read for another reason.
  """
  folder = pathlib.Path(manager.directory) / str(step)
  try:
    host = manager.restore(step, args=ocp.args.Composite(host=ocp.args.JsonRestore())).host
    _check_format(host, folder)
    arrays = manager.restore(step, args=ocp.args.Composite(arrays=ocp.args.StandardRestore(_shapes(example)))).arrays
  except RunError:
    raise
  except Exception as error:  # orbax raises a bare Exception for damage, failing reads and another model's arrays
    reason = damage(folder)
    if reason:
      raise Damaged(reason) from error
    raise RunError(
        f"the checkpoint {folder} could not be read, though its files are those that were written; nothing was moved. "
        f"{type(error).__name__}: {' '.join(str(error).split())[:600]}\n"
        "If the reading failed, give the same command again; if the config or the code has changed, give "
        "another --workdir."
    ) from error
  written = int(arrays.pop("fingerprint"))
  if int(fingerprint(_arrays(arrays))) != written:
    raise Damaged("its arrays are not those that were written")
  if int(arrays["state"]["step"]) != step:
    raise Damaged(f"it holds step {int(arrays['state']['step'])}")
  return arrays, host


def network(manager: Manager, step: int, learner: str) -> PyTree:
  """Reads one learner's network and nothing else: no optimizer's state, no example of a tree is needed.

  Args:
    manager: from `open_checkpoints`.
    step: of a checkpoint that is there.
    learner: its name.

  Returns:
    `{"params": ..., "batch_stats": ...}` as NumPy arrays, as `model.apply` takes them.

  Raises:
    KeyError: there is no such learner; its argument is the list of those there are.
    RunError: the checkpoint is damaged, cannot be read, or was written in another format.
  """
  folder = pathlib.Path(manager.directory) / str(step)
  reason = damage(folder)  # a part of the arrays cannot be held against the fingerprint of all
  if reason:
    raise Damaged(f"the checkpoint {folder} is damaged ({reason})")
  host = manager.restore(step, args=ocp.args.Composite(host=ocp.args.JsonRestore())).host
  _check_format(host, folder)
  with ocp.PyTreeCheckpointer() as checkpointer:
    learners = checkpointer.metadata(folder / "arrays").item_metadata.tree["state"]["learners"]
    if learner not in learners:
      raise KeyError(sorted(learners))
    found = learners[learner]
    part = {"state": {"learners": {learner: {"params": {"model": found["params"]["model"]},
                                             "batch_stats": found.get("batch_stats") or {}}}}}
    arrays = checkpointer.restore(folder / "arrays", args=ocp.args.PyTreeRestore(
        item=jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), part),
        restore_args=jax.tree.map(lambda x: ocp.RestoreArgs(restore_type=np.ndarray), part), partial_restore=True))
  read = arrays["state"]["learners"][learner]
  return {"params": read["params"]["model"], "batch_stats": read["batch_stats"]}


def _check_format(host, folder):
  found = host.get("format", 1)
  if found != FORMAT:
    raise RunError(f"the checkpoint {folder} has format {found} and this version of spectral_jax reads "
                   f"format {FORMAT}; finish the run with the version that began it, or give another --workdir")


def _shapes(example):
  of = lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding) if isinstance(x, jax.Array) else x
  some = next(leaf for leaf in jax.tree.leaves(example) if isinstance(leaf, jax.Array))
  everywhere = jax.sharding.NamedSharding(some.sharding.mesh, jax.P()) \
      if isinstance(some.sharding, jax.sharding.NamedSharding) else some.sharding
  return {**jax.tree.map(of, example), "fingerprint": jax.ShapeDtypeStruct((), jnp.uint32, sharding=everywhere)}


def _arrays(tree):
  return [leaf for leaf in jax.tree.leaves(tree) if isinstance(leaf, (jax.Array, np.ndarray))]


def damage(folder: pathlib.Path) -> str:
  """Returns the proof that a checkpoint's files are not those that were written, or "" if there is none."""
  try:
    expected = json.loads((folder / CHECKSUMS).read_bytes())
  except FileNotFoundError:
    return ""  # nothing is proved
  except ValueError:
    return f"{CHECKSUMS} is no JSON"
  for name, (size, checksum) in expected.items():
    path = folder / name
    if not path.exists():
      return f"{name} is missing"
    if path.stat().st_size != size:
      return f"{name} has {path.stat().st_size} bytes, {size} were written"
    if _checksum(path) != checksum:
      return f"{name} has other bytes than were written"
  return ""


def _seal(root):
  """Adds the checksums to the checkpoint that is about to appear: orbax calls this before it renames the folder."""
  for folder in root.glob("*.orbax-checkpoint-tmp*"):
    # Of the items alone; orbax writes its notes beside them later.
    sums = {str(path.relative_to(folder)): (path.stat().st_size, _checksum(path))
            for path in sorted(folder.glob("*/**/*")) if path.is_file() and path.name != "commit_success.txt"}
    write_json(folder / CHECKSUMS, sums)


def _checksum(path):
  value = 0
  with open(path, "rb") as file:
    while block := file.read(BLOCK):
      value = zlib.crc32(block, value)
  return value


def _set_aside(manager, step):
  root = pathlib.Path(manager.directory)
  aside = root.parent / SET_ASIDE
  aside.mkdir(exist_ok=True)
  target = aside / f"{step}-{len(list(aside.iterdir()))}"
  os.replace(root / str(step), target)
  return target


@jax.jit
def fingerprint(tree: PyTree) -> UInt32[Array, ""]:
  """A uint32 that changes with any bit of the arrays: a weighted sum of their words, modulo 2^32."""
  total = jnp.zeros((), jnp.uint32)
  for leaf in jax.tree.leaves(tree):
    words = jax.lax.bitcast_convert_type(leaf, jnp.dtype(f"uint{leaf.dtype.itemsize * 8}")).astype(jnp.uint32).ravel()
    place = jnp.arange(words.size, dtype=jnp.uint32) * 2 + 1  # odd, so that no single changed bit cancels
    total = total * jnp.uint32(1000003) + jnp.sum(words * place, dtype=jnp.uint32)
  return total
