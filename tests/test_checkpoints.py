"""What is saved comes back bit for bit; what a disk or a kill has damaged is noticed and passed over."""

import shutil
import subprocess
import sys
import types

import jax
import jax.numpy as jnp
import ml_collections
import numpy as np
import pytest

from spectral_jax.training import checkpoints
from spectral_jax.training.batches import Tables, epoch_indices
from spectral_jax.training.mesh import make_mesh, state_shardings
from spectral_jax.training.state import State
from spectral_jax.training.workdir import disk_errors

CONFIG = ml_collections.ConfigDict({"every_steps": 1, "keep": 2})
HOST = {"seconds": 1.5, "timed": [2, 0.5], "last": {"loss": 1.0}}


def example(step, mesh=None):
  key = jax.random.fold_in(jax.random.key(0), step)
  params = {"projector": {"kernel": jax.random.normal(key, (4, 16))}, "bias": jnp.ones(3, jnp.bfloat16)}
  state = State(jnp.int32(step), jax.random.key_data(key), params, {}, {"mu": params, "count": jnp.int32(step)})
  return jax.device_put(state, state_shardings(state, mesh or make_mesh(devices=jax.devices()[:1])))


def tables(epoch):
  return Tables(epoch, *(epoch_indices(0, e, 20, 4) for e in (epoch, epoch + 1)))


def save_some(folder, steps, accuracies=None):
  with checkpoints.open_checkpoints(folder, CONFIG) as manager:
    for step in steps:
      metrics = {"knn_accuracy": accuracies[step]} if accuracies else None
      checkpoints.save(manager, step, example(step), tables(step), HOST, metrics)
    manager.wait_until_finished()
    return sorted(manager.all_steps())


def restore(folder, mesh=None):
  with checkpoints.open_checkpoints(folder, CONFIG) as manager:
    return checkpoints.restore_latest(manager, example(0, mesh), tables(0))


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
  assert host == HOST
  assert state.params["projector"]["kernel"].sharding.mesh == mesh


def test_the_last_few_and_the_best_are_kept(tmp_path):
  assert save_some(tmp_path, [1, 2, 3, 4, 5], {1: 0.1, 2: 0.9, 3: 0.2, 4: 0.3, 5: 0.4}) == [2, 4, 5]


@pytest.mark.parametrize("damage", ["truncate", "flip", "remove"])
def test_a_damaged_checkpoint_is_passed_over(tmp_path, damage, capsys):
  save_some(tmp_path, [1, 2])
  for file in (tmp_path / "checkpoints" / "2" / "arrays").rglob("d/*"):
    content = bytearray(file.read_bytes())
    if damage == "truncate":
      file.write_bytes(content[:len(content) // 2])
    elif damage == "flip":
      content[len(content) // 2] ^= 1
      file.write_bytes(content)
    else:
      file.unlink()
  state, found, _ = restore(tmp_path)
  assert_equal(state, example(1))
  assert found.epoch == 1
  assert "checkpoint of step 2 is damaged" in capsys.readouterr().out
  assert len(list((tmp_path / "damaged_checkpoints").iterdir())) == 1
  assert save_some(tmp_path, [2]) == [1, 2]  # the step can be saved again


def test_an_unfinished_write_is_cleared_away(tmp_path):
  save_some(tmp_path, [1])
  (tmp_path / "checkpoints" / "2.orbax-checkpoint-tmp").mkdir()
  state, _, _ = restore(tmp_path)
  assert int(state.step) == 1


def test_the_fingerprint_sees_any_bit():
  state = example(1)
  whole = int(checkpoints.fingerprint(state))
  assert whole == int(checkpoints.fingerprint(example(1)))
  kernel = np.array(state.params["projector"]["kernel"])
  for bit in (0, 31):
    words = kernel.copy().view(np.uint32)
    words[3, 7] ^= np.uint32(1 << bit)
    params = {**state.params, "projector": {"kernel": jnp.asarray(words.view(np.float32))}}
    assert int(checkpoints.fingerprint(state._replace(params=params))) != whole


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
from spectral_jax.training.events import Events
resource.setrlimit(resource.RLIMIT_FSIZE, (2000, 2000))
events = Events(pathlib.Path(sys.argv[1]))
for step in range(1000):
  events.scalars(step, {"loss": 1.0})
"""


def test_events_that_cannot_be_written_are_an_error_and_no_silence(tmp_path):
  done = subprocess.run([sys.executable, "-c", LIMITED, str(tmp_path)], capture_output=True, text=True, timeout=120)
  assert done.returncode == 1 and "OSError: [Errno 27] File too large" in done.stderr
