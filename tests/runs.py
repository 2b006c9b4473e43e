"""What a run has left, to be compared with what another has."""

import pathlib

import jax
import numpy as np
import orbax.checkpoint as ocp

from spectral_jax.workdir.logs import read_metrics

# Batches of 240 of 1,437 digits: an epoch has 5 steps; chosen batches from epoch 2 on, evaluations at steps 10 and 17.
SETTINGS = {
    "batch_size": 240, "steps": 17, "log_every": 3, "diagnostics_every": 0, "eval_every_epochs": 2,
    "checkpoint.every_steps": 7, "checkpoint.keep": 2, "optimizer.warmup_epochs": 0, "model.width": 0.125,
    "model.projector_hidden": 8, "model.projector_dim": 8, "eval.knn_limit": 200, "eval.test_limit": 50,
    "selection.rule": "greedy", "selection.candidates": 16, "bank.refresh_epochs": 1}


def flags(settings, folder, *more):
  """Settings as flags of the main command."""
  return [f"--config.{key}={value}" for key, value in settings.items()] + [f"--workdir={folder}", *more]


def steps_of(folder):
  """Steps of the checkpoints in a workdir."""
  return sorted(int(path.name) for path in (pathlib.Path(folder) / "checkpoints").glob("*") if path.name.isdigit())


def content(folder, step):
  """All arrays of a checkpoint, bank and index tables included, as NumPy arrays by name."""
  path = pathlib.Path(folder).absolute() / "checkpoints" / str(step) / "arrays"
  with ocp.PyTreeCheckpointer() as reader:
    tree = reader.metadata(path).item_metadata.tree
    as_numpy = jax.tree.map(lambda _: ocp.RestoreArgs(restore_type=np.ndarray), tree)
    arrays = reader.restore(path, restore_args=as_numpy)
  return {jax.tree_util.keystr(name): np.asarray(leaf) for name, leaf in jax.tree_util.tree_leaves_with_path(arrays)}


def timeless(folder):
  """The lines of metrics.jsonl without what a clock said."""
  return [{key: value for key, value in record.items() if "second" not in key and "share" not in key}
          for record in read_metrics(pathlib.Path(folder))]


def left(folder):
  """Steps, last checkpoint and metrics of a run."""
  steps = steps_of(folder)
  return steps, content(folder, steps[-1]), timeless(folder)


def assert_same(a, b):
  """That two runs ended with the same bits."""
  assert a[0] == b[0]
  assert a[1].keys() == b[1].keys()
  for name, array in a[1].items():
    assert array.dtype == b[1][name].dtype
    np.testing.assert_array_equal(array, b[1][name], err_msg=name)
  for one, other in zip(a[2], b[2]):
    assert one == other
  assert len(a[2]) == len(b[2])
