"""Killed in the middle of anything, or robbed of a file, a run ends as if nothing had happened once it goes on."""

import os
import signal

import numpy as np
import pytest
from PIL import Image

from tests import runs

KILL, TERM = signal.SIGKILL, signal.SIGTERM
CHECKPOINTS = "spectral_jax.workdir.checkpoints"
# Where a run is killed; in this order one run meets all. A signal stops an evaluation: its scores go into a checkpoint
# of the same step later, and the next two kills come while the old one is being replaced.
KILLS = (
    (f"{CHECKPOINTS}:_seal", 1, KILL),                         # the first checkpoint, written but for its name
    ("spectral_jax.progress:bar(embedding)", 1, KILL),         # bank refresh
    ("spectral_jax.progress:bar(encoding)", 1, TERM),          # evaluation: saved without scores
    (f"{CHECKPOINTS}:_check_room", 1, KILL),                   # the old one put by, the new one not begun
    (f"{CHECKPOINTS}:_seal", 1, KILL),                         # the new one written but for its name
    ("spectral_jax.training.batches.planner:chosen_table", 1, KILL))


def test_killed_in_the_middle_of_anything_it_ends_with_the_same_bits(forge, undisturbed, tmp_path):
  newest = 0
  for moment in KILLS:
    code, said = forge.run(*runs.flags(runs.SETTINGS, tmp_path), entry="train", at=moment)
    assert code == (75 if moment[2] == TERM else -KILL), (moment, said)
    kept = [int(path.name) for folder in ("checkpoints", "replaced_checkpoints")
            for path in (tmp_path / folder).glob("*") if path.name.isdigit()]
    assert max(kept, default=0) >= newest, moment  # what had been saved is never lost
    newest = max(kept, default=0)
  code, said = forge.run(*runs.flags(runs.SETTINGS, tmp_path), entry="train")
  assert code == 0, said
  runs.assert_same(runs.left(tmp_path), undisturbed)
  assert not list((tmp_path / "replaced_checkpoints").glob("*")) and not (tmp_path / "damaged_checkpoints").exists()


@pytest.fixture
def folder(tmp_path):
  """Some images in two classes."""
  for i in range(40):
    place = tmp_path / "images" / ("train" if i < 32 else "test") / f"class{i % 2}"
    place.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.random.default_rng(i).integers(0, 256, (20, 20), np.uint8)).save(place / f"{i:02}.png")
  return tmp_path / "images"


def test_a_file_that_vanishes_is_named_and_once_it_is_back_the_run_goes_on(forge, folder, tmp_path):
  settings = {**runs.SETTINGS, "data.name": "folder", "data.data_dir": str(folder), "data.path": "stream",
              "data.image_size": 16, "batch_size": 16, "steps": 6, "log_every": 1, "checkpoint.every_steps": 2,
              "selection.rule": "random", "eval_every_epochs": 0, "eval.shots": 1, "eval.knn_k": 1}
  flags = lambda name: runs.flags(settings, tmp_path / name)
  code, said = forge.run(*flags("whole"), entry="train")
  assert code == 0, said
  # After two steps of two each epoch: the third step's feed meets the gap.
  code, said = forge.run(*flags("robbed"), entry="train", at=("spectral_jax.workdir.logs:Log.add", 3, TERM))
  assert code == 75, said
  lost, aside = folder / "train" / "class0" / "00.png", tmp_path / "aside.png"
  child = forge.start(*flags("robbed"), entry="train", at=("spectral_jax.training.loop:steps", 1, signal.SIGSTOP))
  child.wait_until_stopped()
  os.replace(lost, aside)
  child.kill(signal.SIGCONT)
  assert child.wait() == 1
  assert "Error" in child.said() and str(lost) in child.said() and "Traceback" not in child.said(), child.said()
  os.replace(aside, lost)
  code, said = forge.run(*flags("robbed"), entry="train")
  assert code == 0, said
  runs.assert_same(runs.left(tmp_path / "robbed"), runs.left(tmp_path / "whole"))
