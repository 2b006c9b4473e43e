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
# Batches of 480 digits: an epoch has 2 steps; batches are chosen from epoch 2 on. Evaluations, and much more, are in
# benchmarks/processes.py.
SETTINGS = {
    "batch_size": 480, "steps": 1000, "log_every": 1, "diagnostics_every": 0, "eval_every_epochs": 0,
    "checkpoint.every_steps": 5, "checkpoint.keep": 2, "optimizer.warmup_epochs": 0, "model.width": 0.125,
    "model.projector_hidden": 8, "model.projector_dim": 8, "selection.rule": "greedy", "selection.candidates": 16,
    "bank.refresh_epochs": 1}
CHOSEN_FROM = 4
# Sums come in another order in another process: float32 losses may differ by so much, relatively. Once batches are
# chosen by embeddings, which differ as little, a choice between two candidates that are as good may fall otherwise.
TOLERANCE = 1e-5
LOST_AFTER = 9
LOG_ADD = "spectral_jax.workdir.logs:Log.add"


def start(forge, folder, *flags, at=(None, None), entry="train", settings=SETTINGS):
  """Two processes of two devices each; `at[i]` is the moment of process i."""
  port = free_port()
  flags = [*flags, *runs.flags(settings, folder), f"--coordinator=127.0.0.1:{port}", "--processes=2"]
  return [forge.start(*flags, f"--process={i}", f"--lost_after={LOST_AFTER}", devices=2, at=at[i], entry=entry)
          for i in range(2)]


def alone(forge, folder, at=None):
  code, said = forge.run(*runs.flags(SETTINGS, folder), devices=4, at=at, entry="train")
  return code, said


def ended(children):
  return [child.wait() for child in children], "\n".join(child.said() for child in children)


@pytest.fixture(scope="module")
def expected(forge, tmp_path_factory):
  """Losses of one process with four devices, by step."""
  folder = tmp_path_factory.mktemp("alone")
  code, said = alone(forge, folder, at=(LOG_ADD, 6, signal.SIGTERM))
  assert code == preemption.EXIT_CODE, said
  return {line["step"]: line["loss"] for line in runs.left(folder)[2] if "loss" in line}


@pytest.fixture(scope="module")
def wandering(forge, tmp_path_factory):
  """A run on 2 processes of which one is killed, then on 1, then on 2 again: what was said, and what they left."""
  folder, said = tmp_path_factory.mktemp("wandering"), {}
  children = start(forge, folder, at=(None, (LOG_ADD, 12, signal.SIGKILL)))
  codes = [children[1].wait()]
  began = time.monotonic()
  codes.append(children[0].wait())
  said["seconds"], said["killed"] = time.monotonic() - began, children[0].said()
  assert codes[0] == -signal.SIGKILL and codes[1] not in (0, preemption.EXIT_CODE), said["killed"]
  said["left"] = runs.left(folder)
  code, said["alone"] = alone(forge, folder, at=(LOG_ADD, 3, signal.SIGTERM))
  assert code == preemption.EXIT_CODE, said["alone"]
  codes, said["preempted"] = ended(start(forge, folder, at=(None, (LOG_ADD, 3, signal.SIGTERM))))
  assert codes == [preemption.EXIT_CODE] * 2, said["preempted"]
  said["steps"] = runs.steps_of(folder)
  return said


def test_the_others_of_a_killed_process_end_soon_and_name_it(wandering):
  assert wandering["seconds"] < 2 * LOST_AFTER + 5
  # A collective that breaks is answered by us. One that hangs, as all do on GPUs and as gloo's do while they connect, is
  # ended by JAX's service, whose message has the number alone; what process has which is said at the start.
  ours = re.search(r"Error in process 0 of 2 on \S+: lost process 1 on \S+\.", wandering["killed"])
  jaxs = re.search(r"tasks are unhealthy \(stopped sending heartbeats\):\s+1\s", wandering["killed"])
  assert ours or jaxs, wandering["killed"]
  assert re.search(r"2 processes: 0 to 1 on \S+\. .* The same command goes on", wandering["killed"])


def test_any_number_goes_on_and_a_signal_to_one_stops_all(wandering):
  before = wandering["left"][0][-1]
  assert f"Going on from the checkpoint of step {before}." in wandering["alone"]
  assert f"Going on from the checkpoint of step {before + 3}." in wandering["preempted"]
  assert wandering["preempted"].count("Stopped as asked; the same command goes on") == 2
  assert before + 3 < wandering["steps"][-1] < SETTINGS["steps"]


def test_losses_are_within_the_tolerance_while_batches_are_random(wandering, expected):
  found = {line["step"]: line["loss"] for line in wandering["left"][2] if "loss" in line}
  assert set(found) >= set(range(1, CHOSEN_FROM + 1)) and np.isfinite(list(found.values())).all()
  for step in range(1, CHOSEN_FROM + 1):
    np.testing.assert_allclose(found[step], expected[step], rtol=TOLERANCE, err_msg=f"step {step}")


def test_two_processes_choose_what_one_would_of_the_same_bank(wandering):
  arrays = wandering["left"][1]
  config = load_config("digits")
  config.update_from_flattened_dict(SETTINGS)
  plan = planner.make_plan(config, SIZE, SETTINGS["steps"])
  bank, epoch = arrays["['tables']['bank']"][:SIZE], int(arrays["['tables']['epoch']"])
  np.testing.assert_allclose(np.linalg.norm(bank, axis=1), 1, atol=1e-5)
  following, _ = planner.chosen_table(plan, epoch + 1, jax.device_put(bank, jax.devices()[0]))
  np.testing.assert_array_equal(arrays["['tables']['following']"], following)


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
  stream = list(split.stream(table, image_size=16, seed=0, start_step=0, train=True, views=2,
                             crop_scale=config.augment.crop_scale))
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
  assert distributed.start(processes=1) == 1
  monkeypatch.setenv(variable, "1")
  assert distributed.start() == 1
  assert not jax.distributed.is_initialized()


def test_without_a_launcher_it_is_alone(forge):
  code, said = forge.run(entry="roll_call")
  assert code == 0 and "process 0 of 1, 1 of 1 devices" in said
