"""Several processes are one run: the same batches, crops and numbers, and one end for all of them."""

import re
import signal
import time

import jax
import numpy as np
import pytest
from PIL import Image

from spectral_jax import distributed, preemption
from spectral_jax._errors import ConfigError
from spectral_jax.config import load_config
from spectral_jax.data import open_dataset
from spectral_jax.training.batches import planner
from spectral_jax.training.batches.tables import epoch_indices
from tests import runs
from tests.forge import free_port

SIZE = 1437
# Batches of 240 digits: an epoch has 5 steps; batches are chosen from epoch 2 on.
CHOSEN_FROM = 10
SETTINGS = {
    "batch_size": 240, "steps": 14, "log_every": 1, "diagnostics_every": 0, "eval_every_epochs": 2,
    "checkpoint.every_steps": 6, "checkpoint.keep": 2, "optimizer.warmup_epochs": 0, "model.width": 0.125,
    "model.projector_hidden": 8, "model.projector_dim": 8, "eval.knn_limit": 200, "eval.test_limit": 48,
    "selection.rule": "greedy", "selection.candidates": 16, "bank.refresh_epochs": 1}
# Sums come in another order in another process: float32 losses may differ by so much, relatively. Once batches are chosen
# by embeddings, which differ as little, a choice between two candidates that are as good may fall otherwise.
TOLERANCE = 1e-5
LOST_AFTER = 9
LOG_ADD = "spectral_jax.workdir.logs:Log.add"


def start(forge, folder, *flags, at=(None, None), entry="train", settings=SETTINGS):
  """Two processes of two devices each; `at[i]` is the moment of process i."""
  port = free_port()
  return [forge.start(*flags, *runs.flags(settings, folder), f"--coordinator=127.0.0.1:{port}", "--processes=2",
                      f"--process={i}", f"--lost_after={LOST_AFTER}", devices=2, at=at[i], entry=entry) for i in range(2)]


def alone(forge, folder, at=None):
  code, said = forge.run(*runs.flags(SETTINGS, folder), devices=4, at=at, entry="train")
  return code, said


def ended(children):
  return [child.wait() for child in children], "\n".join(child.said() for child in children)


@pytest.fixture(scope="module")
def whole(forge, tmp_path_factory):
  """What one process with four devices leaves."""
  folder = tmp_path_factory.mktemp("whole")
  code, said = alone(forge, folder)
  assert code == 0, said
  return runs.left(folder)


@pytest.fixture(scope="module")
def wandering(forge, tmp_path_factory):
  """A run on 2 processes, then on 1, on 2 again (one of which is killed), and on 2 to its end: what was said, and left."""
  folder, said = tmp_path_factory.mktemp("wandering"), {}
  codes, said["preempted"] = ended(start(forge, folder, at=(None, (LOG_ADD, 4, signal.SIGTERM))))
  assert codes == [preemption.EXIT_CODE] * 2, said["preempted"]
  code, said["alone"] = alone(forge, folder, at=(LOG_ADD, 4, signal.SIGTERM))
  assert code == preemption.EXIT_CODE, said["alone"]
  children = start(forge, folder, at=(None, (LOG_ADD, 2, signal.SIGKILL)))
  codes = [children[1].wait()]
  began = time.monotonic()
  codes.append(children[0].wait())
  said["seconds"], said["killed"] = time.monotonic() - began, children[0].said()
  assert codes[0] == -signal.SIGKILL and codes[1] not in (0, preemption.EXIT_CODE), said["killed"]
  codes, said["resumed"] = ended(start(forge, folder))
  assert codes == [0, 0], said["resumed"]
  return folder, said


def test_a_signal_to_one_stops_all_and_any_number_goes_on(wandering):
  said = wandering[1]
  assert said["preempted"].count("the same command goes on") == 2
  for part in ("alone", "killed", "resumed"):
    assert said[part].count("Going on from the checkpoint of step") == 1


def test_the_others_of_a_killed_process_end_soon_and_name_it(wandering):
  said = wandering[1]
  assert said["seconds"] < 2 * LOST_AFTER + 5
  assert re.search(r"Error in process 0 of 2 on \S+: lost process 1 on \S+\.", said["killed"]), said["killed"]


def test_losses_are_within_the_tolerance_while_batches_are_random(wandering, whole):
  steps, _, lines = runs.left(wandering[0])
  assert steps == whole[0]
  assert [(line["step"], line.keys()) for line in lines] == [(line["step"], line.keys()) for line in whole[2]]
  losses, expected = ([line["loss"] for line in all_of if "loss" in line] for all_of in (lines, whole[2]))
  assert len(losses) == SETTINGS["steps"] and np.isfinite(losses).all()
  np.testing.assert_allclose(losses[:CHOSEN_FROM], expected[:CHOSEN_FROM], rtol=TOLERANCE)


def test_two_processes_choose_what_one_would_of_the_same_bank(wandering):
  arrays = runs.left(wandering[0])[1]
  config = load_config("digits")
  config.update_from_flattened_dict(SETTINGS)
  plan = planner.make_plan(config, SIZE, SETTINGS["steps"])
  bank, epoch = arrays["['tables']['bank']"][:SIZE], int(arrays["['tables']['epoch']"])
  assert epoch == 2 and np.linalg.norm(bank, axis=1) == pytest.approx(1, abs=1e-5)
  expected, _ = planner.chosen_table(plan, epoch, jax.device_put(bank, jax.devices()[0]))
  np.testing.assert_array_equal(arrays["['tables']['present']"], expected)


def test_each_process_decodes_its_own_columns_alone_and_the_crops_are_the_same(forge, tmp_path):
  data = tmp_path / "data"
  for i in range(24):
    folder = data / ("train" if i < 16 else "test") / f"class{i % 2}"
    folder.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(i).integers(0, 256, (20 + i, 30 - i // 2, 3), np.uint8)
    Image.fromarray(pixels).save(folder / f"{i}.png")
  settings = {"data.name": "folder", "data.data_dir": str(data), "data.image_size": 16, "data.path": "stream",
              "batch_size": 8}
  codes, said = ended(start(forge, tmp_path / "run", "--config=cifar10", entry="crops", settings=settings))
  assert codes == [0, 0], said
  config = load_config("cifar10")
  config.update_from_flattened_dict(settings)
  split = open_dataset(config.data).train
  table = epoch_indices(0, 0, split.size, 8)
  stream = list(split.stream(table, image_size=16, seed=0, start_step=0, train=True, views=2, crop_scale=config.augment.crop_scale))
  for process in range(2):
    found = np.load(tmp_path / "run" / f"crops-{process}.npz")
    columns = slice(4 * process, 4 * process + 4)
    np.testing.assert_array_equal(found["index"], table[:, columns])
    np.testing.assert_array_equal(found["images"], np.stack([batch["images"][:, columns] for batch in stream]))
    assert found["read"].tolist() == table[:, columns].ravel().tolist()


@pytest.mark.parametrize("given, message", [
    (dict(coordinator="here:1"), "--processes and --process must be given too"),
    (dict(processes=2), "--coordinator and --process must be given too"),
    (dict(coordinator="here", processes=2, process=0), "HOST:PORT"),
    (dict(coordinator="here:1", processes=2, process=2), "from 0 to 1"),
    (dict(coordinator="here:1", processes=0, process=0), "at least 1"),
    (dict(lost_after=1), "at least 2 seconds"),
])
def test_flags_that_do_not_fit_together_are_named(given, message):
  with pytest.raises(ConfigError, match=message):
    distributed.start(**given)


@pytest.mark.parametrize("variable", distributed.SIZES)
def test_one_process_is_alone_whatever_launched_it(monkeypatch, variable):
  assert distributed.start() == 1
  assert distributed.start(processes=1) == 1
  monkeypatch.setenv(variable, "1")
  assert distributed.start() == 1
  assert not jax.distributed.is_initialized()
