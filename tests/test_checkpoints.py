"""What is saved comes back bit for bit; what a disk or a kill has damaged is noticed and passed over."""

import shutil
import subprocess
import sys
import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import PartitionSpec

from spectral_jax._errors import RunError
from spectral_jax.mesh import make_mesh, state_shardings
from spectral_jax.training.batches.tables import Tables, epoch_indices, of_stored, stored
from spectral_jax.training.state import Learner, State
from spectral_jax.workdir import checkpoints
from spectral_jax.workdir.folder import disk_errors

HOST = {"seconds": 1.5, "timed": [2, 0.5], "last": {"loss": 1.0}}
RULES = (("projector.*kernel", "columns"),)


def example(step, mesh=None, width=16):
  key = jax.random.fold_in(jax.random.key(0), step)
  params = {"projector": {"kernel": jax.random.normal(key, (4, width))}, "bias": jnp.ones(3, jnp.bfloat16)}
  learner = Learner(params, {}, {"mu": params, "count": jnp.int32(step)})
  state = State(jnp.int32(step), jax.random.key_data(key), {"main": learner})
  return jax.device_put(state, state_shardings(state, mesh or make_mesh(devices=jax.devices()[:1]), RULES))


def tables(epoch):
  return Tables(epoch, *(epoch_indices(0, e, 20, 4) for e in (epoch, epoch + 1)))


def content(step, *arguments, **keywords):
  return {"state": example(step, *arguments, **keywords)._asdict(), "tables": stored(tables(step))}


def save_some(folder, steps, accuracies=None):
  with checkpoints.open_checkpoints(folder, 2) as manager:
    for step in steps:
      accuracy = (accuracies or {}).get(step)
      checkpoints.save(manager, step, content(step), HOST, None if accuracy is None else {"knn_accuracy": accuracy})
    manager.wait_until_finished()
    return sorted(manager.all_steps())


def restore(folder, mesh=None, **keywords):
  with checkpoints.open_checkpoints(folder, 2) as manager:
    found = checkpoints.restore_latest(manager, content(0, mesh, **keywords))
  return found and (State(**found[0]["state"]), of_stored(found[0]["tables"]), found[1])


def assert_equal(a, b):
  assert jax.tree.structure(a) == jax.tree.structure(b)
  for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b)):
    x, y = np.asarray(x), np.asarray(y)
    assert x.dtype == y.dtype
    np.testing.assert_array_equal(x, y)


@pytest.mark.parametrize("devices, model_parallel", [(1, 1), (8, 2)])
def test_state_tables_and_numbers_come_back(tmp_path, devices, model_parallel):
  assert restore(tmp_path) is None
  save_some(tmp_path, [3])
  mesh = make_mesh(model_parallel, jax.devices()[:devices])
  state, found, host = restore(tmp_path, mesh)
  assert_equal(state, example(3))
  assert_equal(found, tables(3))
  assert host == {"format": checkpoints.FORMAT, **HOST}
  assert state.learners["main"].params["projector"]["kernel"].sharding.mesh == mesh


def test_the_last_few_and_the_best_are_kept_and_the_best_is_named(tmp_path):
  assert save_some(tmp_path, [1, 2, 3, 4, 5], {1: 0.8, 2: 0.9, 3: 0.2, 4: 0.3}) == [2, 4, 5]
  with checkpoints.open_checkpoints(tmp_path, read_only=True) as manager:
    assert checkpoints.best(manager) == (2, 0.9) and manager.best_step() == 2


def test_columns_lie_over_the_models_axis_where_they_divide():
  mesh = make_mesh(2, jax.devices()[:4])
  spec = lambda shape: state_shardings({"projector": {"kernel": jnp.zeros(shape)}}, mesh, RULES)["projector"]["kernel"].spec
  assert spec((4, 16)) == PartitionSpec(None, "model")
  assert spec((4, 15)) == spec((16,)) == spec((3, 3, 16)) == PartitionSpec()
  one = make_mesh(1, jax.devices()[:4])
  assert state_shardings({"projector": {"kernel": jnp.zeros((4, 16))}}, one, RULES)["projector"]["kernel"].spec == PartitionSpec()


def files_of(folder, step):
  """The files that hold a checkpoint's arrays."""
  return [file for file in (folder / "checkpoints" / str(step) / "arrays").rglob("d/*") if file.is_file()]


def damage(files, how):
  for file in files:
    content = bytearray(file.read_bytes())
    if how == "truncate":
      file.write_bytes(content[:len(content) // 2])
    elif how == "flip":
      content[len(content) // 2] ^= 1
      file.write_bytes(content)
    else:
      file.unlink()


@pytest.mark.parametrize("how", ["truncate", "flip", "remove"])
def test_a_damaged_checkpoint_is_passed_over(tmp_path, how, capsys):
  save_some(tmp_path, [1, 2])
  damage(files_of(tmp_path, 2), how)
  state, found, _ = restore(tmp_path)
  assert_equal(state, example(1))
  assert found.epoch == 1
  assert "checkpoint of step 2 is damaged" in capsys.readouterr().out
  assert len(list((tmp_path / "damaged_checkpoints").iterdir())) == 1
  assert save_some(tmp_path, [2]) == [1, 2]  # the step can be saved again


def test_garbage_beside_the_arrays_is_damage_too(tmp_path):
  save_some(tmp_path, [1, 2])
  (tmp_path / "checkpoints" / "2" / "host" / "metadata").write_bytes(b"\x00garbage")
  assert int(restore(tmp_path)[0].step) == 1


def test_where_all_are_damaged_the_run_stops_until_told_to_begin_anew(tmp_path):
  save_some(tmp_path, [1, 2])
  for step in (1, 2):
    damage(files_of(tmp_path, step), "truncate")
  for _ in range(2):  # also the second time, when only the damaged ones' folder is left
    with pytest.raises(RunError, match="No whole checkpoint is left.*--restart"):
      restore(tmp_path)


@pytest.mark.parametrize("error", [OSError(5, "Input/output error"), MemoryError("no memory"),
                                   ValueError("RESOURCE_EXHAUSTED: Out of memory")],
                         ids=["EIO", "memory", "device memory"])
def test_what_proves_no_damage_stops_the_run_and_moves_nothing(tmp_path, error, monkeypatch):
  assert save_some(tmp_path, [1, 2]) == [1, 2]
  reads = checkpoints.ocp.CheckpointManager.restore

  def fails(manager, step, args):
    if "arrays" in args:
      raise error
    return reads(manager, step, args=args)

  monkeypatch.setattr(checkpoints.ocp.CheckpointManager, "restore", fails)
  with pytest.raises(RunError,
                     match="(?s)could not be read, though its files are those that were written; nothing was moved"):
    restore(tmp_path)
  monkeypatch.undo()
  assert int(restore(tmp_path)[0].step) == 2


def test_another_models_checkpoint_is_refused_and_kept(tmp_path):
  save_some(tmp_path, [1, 2])
  with pytest.raises(RunError, match="nothing was moved.*shape"):
    restore(tmp_path, width=8)
  assert int(restore(tmp_path)[0].step) == 2


def test_an_older_format_is_refused_plainly(tmp_path, monkeypatch):
  monkeypatch.setattr(checkpoints, "FORMAT", 1)
  save_some(tmp_path, [1])
  monkeypatch.undo()
  with pytest.raises(RunError, match="has format 1 and this version of spectral_jax reads format 2"):
    restore(tmp_path)


def test_an_unfinished_write_is_cleared_away(tmp_path):
  save_some(tmp_path, [1])
  (tmp_path / "checkpoints" / "2.orbax-checkpoint-tmp").mkdir()
  state, _, _ = restore(tmp_path)
  assert int(state.step) == 1


def test_the_fingerprint_sees_any_bit():
  state = example(1)
  whole = int(checkpoints.fingerprint(state))
  assert whole == int(checkpoints.fingerprint(example(1)))
  learner = state.learners["main"]
  kernel = np.array(learner.params["projector"]["kernel"])
  for bit in (0, 31):
    words = kernel.copy().view(np.uint32)
    words[3, 7] ^= np.uint32(1 << bit)
    params = {**learner.params, "projector": {"kernel": jnp.asarray(words.view(np.float32))}}
    changed = state._replace(learners={"main": learner._replace(params=params)})
    assert int(checkpoints.fingerprint(changed)) != whole


def test_a_full_disk_is_called_so(tmp_path):
  with pytest.raises(RuntimeError, match=r"is full \(No space left on device\); free some space"):
    with disk_errors(tmp_path):
      with open("/dev/full", "w") as file:
        file.write("x" * 100_000)
  with pytest.raises(RuntimeError, match="is full"):
    with disk_errors(tmp_path):
      raise ValueError("RESOURCE_EXHAUSTED: Error writing: No space left on device")


def test_a_checkpoint_without_room_is_not_begun(tmp_path, monkeypatch):
  monkeypatch.setattr(shutil, "disk_usage", lambda folder: types.SimpleNamespace(free=100))
  with pytest.raises(RuntimeError, match=r"is full \(a checkpoint takes 0.0 MiB"):
    with disk_errors(tmp_path):
      save_some(tmp_path, [1])
  assert not list((tmp_path / "checkpoints").iterdir())


LIMITED = """
import pathlib, resource, sys
from spectral_jax.workdir.tensorboard import Events
resource.setrlimit(resource.RLIMIT_FSIZE, (2000, 2000))
events = Events(pathlib.Path(sys.argv[1]))
for step in range(1000):
  events.scalars(step, {"loss": 1.0})
"""


def test_events_that_cannot_be_written_are_an_error_and_no_silence(tmp_path):
  done = subprocess.run([sys.executable, "-c", LIMITED, str(tmp_path)], capture_output=True, text=True, timeout=120)
  assert done.returncode == 1 and "OSError: [Errno 27] File too large" in done.stderr
