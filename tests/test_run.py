"""The main job as a whole: what it leaves, and that a run killed at any moment ends as if it had not been."""

import collections
import json
import logging
import os
import shutil
import signal
import time

import numpy as np
import pytest

from spectral_jax import job, preemption
from spectral_jax._errors import RunError
from spectral_jax.config import load_config
from spectral_jax.evaluation import SCORES, scores as scoring
from spectral_jax.reports import gallery
from spectral_jax.workdir.logs import read_metrics
from tests import runs

FIGURES = [one.key for one in SCORES]
SETTINGS = {
    "batch_size": 64, "steps": 24, "log_every": 2, "diagnostics_every": 5, "eval_every_epochs": 1,
    "checkpoint.every_steps": 5, "optimizer.warmup_epochs": 0, "model.width": 0.125, "model.projector_hidden": 8,
    "model.projector_dim": 8, "eval.knn_limit": 200, "eval.shot_draws": 2,
    "eval.probe_steps": 21, "eval.shot_steps": 10}


def tiny():
  config = load_config("digits")
  config.update_from_flattened_dict(SETTINGS)
  return config


class Compiled(logging.Handler):
  """The programs that JAX compiles while entered, each as its name and its arguments' types, as JAX logs them.

  Weak types are named as others are: a number that is weakly typed in one call alone has all compiled twice.
  """

  def __init__(self):
    super().__init__()
    self.programs, self._logger = [], logging.getLogger("jax._src.interpreters.pxla")

  def emit(self, record):
    if record.msg.startswith("Compiling %s with global shapes and types %s"):
      name, types = map(str, record.args[:2])
      self.programs.append((name, types.replace(", weak_type=True", "")))

  def __enter__(self):
    self._before = self._logger.level, self._logger.propagate
    self._logger.addHandler(self)
    self._logger.setLevel(logging.DEBUG)
    self._logger.propagate = False
    return self

  def __exit__(self, *_):
    self._logger.removeHandler(self)
    self._logger.level, self._logger.propagate = self._before


@pytest.fixture(scope="module")
def compiled():
  return Compiled()


@pytest.fixture(scope="module")
def finished(tmp_path_factory, compiled):
  """A complete run over eight devices; its summary and folder."""
  folder = tmp_path_factory.mktemp("run")
  with compiled:
    return job.main_job(tiny(), folder), folder


def test_no_program_is_compiled_twice(finished, compiled):
  names = collections.Counter(name for name, _ in compiled.programs)
  assert names["jit(step)"] == names["jit(diagnostics)"] == names["jit(init)"] == 1  # and they are heard
  assert names["jit(encode)"] == 1  # all images of a run are encoded in batches of one size
  # Orbax has every device write its own slice of a copy.
  ours = [program for program in compiled.programs if program[0] != "jit(slice)"]
  assert not [program for program, count in collections.Counter(ours).items() if count > 1]
  assert len(ours) < 30


def test_what_a_run_leaves(finished):
  summary, folder = finished
  assert set(summary) == {*FIGURES, "raw_pixels", "random_init", "images_per_second", "train_seconds", "final_loss",
                          "effective_rank", "best_step", "best_knn_accuracy", "images_per_second_with_compilation"}
  assert json.loads((folder / "summary.json").read_text()) == summary
  for scores in (summary, summary["raw_pixels"], summary["random_init"]):
    assert all(0 <= scores[name] <= 1 for name in FIGURES)
  assert set(summary["raw_pixels"]) == set(FIGURES) == set(summary["random_init"]) - {"effective_rank"}
  assert not summary["images_per_second_with_compilation"]  # what comes after the first interval is enough
  assert summary["images_per_second"] > 0 and summary["train_seconds"] > 0 and 1 <= summary["effective_rank"] <= 8
  for name in ("curves.png", "augmented_pairs.png", "spectrum.png", "neighbors.png"):
    assert (folder / name).stat().st_size > 5000
  assert json.loads((folder / "config.json").read_text())["steps"] == 24
  assert any("tfevents" in path.name for path in folder.iterdir())


def test_metrics_are_complete_and_in_order(finished):
  records = read_metrics(finished[1])
  steps = [r["step"] for r in records if "loss" in r]
  assert steps == sorted(set(steps)) and steps[-1] == 24
  assert [r["step"] for r in records if "knn_accuracy" in r] == [22, 24]
  assert all(r["band_lower"] <= r["band_value"] <= r["band_upper"] for r in records if "band_value" in r)
  assert {"effective_rank", "images_per_second", "learning_rate"} <= {key for r in records for key in r}


def test_a_finished_run_is_not_trained_again(finished, capsys):
  summary, folder = finished
  before = (folder / "metrics.jsonl").read_bytes()
  assert job.main_job(tiny(), folder) == summary
  assert "was finished before" in capsys.readouterr().out
  assert (folder / "metrics.jsonl").read_bytes() == before


def test_stopped_while_it_is_scored_it_leaves_soon_and_ends_the_same(finished, tmp_path, monkeypatch):
  summary, folder = finished[0], tmp_path / "run"
  shutil.copytree(finished[1], folder, ignore=shutil.ignore_patterns("summary.json", "*.png", "report.*"))
  for module, name, number in ((scoring, "linear_accuracy", 2), (gallery, "draw", 1)):
    inner, calls = getattr(module, name), []

    def asked_to_stop(*args, inner=inner, number=number, calls=calls, **kwargs):
      calls.append(time.monotonic())
      if len(calls) == number:
        os.kill(os.getpid(), signal.SIGTERM)
      return inner(*args, **kwargs)

    with monkeypatch.context() as patch:
      patch.setattr(module, name, asked_to_stop)
      with pytest.raises(preemption.Preempted):
        job.main_job(tiny(), folder)
      assert len(calls) == number and time.monotonic() - calls[-1] < 10
    assert not (folder / "summary.json").exists()
  assert set(json.loads((folder / "scores.json").read_text())) == {"main", "random_init", "raw_pixels"}
  assert job.main_job(tiny(), folder) == summary
  arrays = [np.load(place / "report.npz") for place in (folder, finished[1])]
  for name in arrays[1]:
    np.testing.assert_array_equal(arrays[0][name], arrays[1][name], err_msg=name)
  assert (folder / "metrics.jsonl").read_bytes() == (finished[1] / "metrics.jsonl").read_bytes()
  assert {path.name for path in finished[1].iterdir()} <= {path.name for path in folder.iterdir()}


def test_a_loss_that_is_not_finite_stops_the_run(tmp_path):
  config = tiny()
  config.optimizer.update(name="sgd", learning_rate=1e30)
  config.eval_every_epochs, config.diagnostics_every, config.checkpoint.every_steps = 0, 0, 1
  with pytest.raises(RunError, match=r"(?s)step \d+\. The last good checkpoint is step \d+.*learning_rate"):
    job.main_job(config, tmp_path)
  assert not (tmp_path / "summary.json").exists()


def test_killed_at_any_moment_it_ends_with_the_same_bits(forge, undisturbed, tmp_path):
  """Killed while the first checkpoint is being written, and a little after the second is there, it goes on each time."""
  last = 0
  for pattern, delay in (("checkpoints/7*tmp*", 0.0), ("checkpoints/14", 0.003)):
    child = forge.start(*runs.flags(runs.SETTINGS, tmp_path), entry="train")
    while not any(tmp_path.glob(pattern)):
      assert child.running(), child.said()
    time.sleep(delay)
    child.kill(signal.SIGKILL)
    assert child.wait() == -signal.SIGKILL
    kept = max(runs.steps_of(tmp_path), default=0)
    assert kept >= last  # what had been saved is never lost
    last = kept
  code, said = forge.run(*runs.flags(runs.SETTINGS, tmp_path), entry="train")
  assert code == 0 and f"Going on from the checkpoint of step {last}." in said
  runs.assert_same(runs.left(tmp_path), undisturbed)
