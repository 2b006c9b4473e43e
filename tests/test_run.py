"""The main job as a whole: what it leaves, and that a run killed at any moment ends as if it had not been."""

import json
import os
import signal
import subprocess
import sys

import pytest

from spectral_jax import command
from spectral_jax.training import loop
from spectral_jax.training.logs import read_metrics

FIGURES = ("knn_accuracy", "linear_accuracy", "five_shot_accuracy")
SETTINGS = {
    "batch_size": 64, "steps": 24, "log_every": 2, "diagnostics_every": 5, "eval_every_epochs": 1,
    "checkpoint.every_steps": 5, "optimizer.warmup_epochs": 0, "model.width": 0.125, "model.projector_hidden": 8,
    "model.projector_dim": 8, "eval.knn_limit": 200, "eval.shot_draws": 2,
    "eval.probe_steps": 20, "eval.shot_steps": 10}

# Trains in the folder argv[1] and prints the fingerprint of the last state. With argv[2], a thread waits for a path
# that matches it and sends SIGKILL argv[3] milliseconds later.
DRIVER = """
import json, os, pathlib, signal, sys, threading, time
import jax
jax.config.update("jax_compilation_cache_dir", os.environ["CACHE"])
jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
from spectral_jax import command
from spectral_jax.data import open_dataset
from spectral_jax.training import checkpoints, loop, setup, workdir
from spectral_jax.training.mesh import make_mesh

def watch(folder, pattern, delay):
  while not any(folder.glob(pattern)):
    time.sleep(0.0005)
  time.sleep(delay / 1000)
  os.kill(os.getpid(), signal.SIGKILL)

folder = pathlib.Path(sys.argv[1])
if len(sys.argv) > 2:
  threading.Thread(target=watch, args=(folder, sys.argv[2], float(sys.argv[3])), daemon=True).start()
config = command.load_config(command.find_config("digits"))
config.update_from_flattened_dict(json.loads(os.environ["SETTINGS"]))
run = setup.prepare(config, open_dataset(config.data), make_mesh())
with workdir.claim(folder, config) as claimed:
  state, _ = loop.train(run, claimed)
print("fingerprint", int(checkpoints.fingerprint(state)))
"""


def tiny():
  config = command.load_config(command.find_config("digits"))
  config.update_from_flattened_dict(SETTINGS)
  return config


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
  """A complete run over eight devices; its summary and folder."""
  folder = tmp_path_factory.mktemp("run")
  return loop.main_job(tiny(), folder), folder


def test_what_a_run_leaves(finished):
  summary, folder = finished
  assert set(summary) == {*FIGURES, "raw_pixels", "random_init", "images_per_second", "train_seconds", "final_loss",
                          "effective_rank"}
  assert json.loads((folder / "summary.json").read_text()) == summary
  for scores in (summary, summary["raw_pixels"], summary["random_init"]):
    assert all(0 <= scores[name] <= 1 for name in FIGURES)
  assert set(summary["raw_pixels"]) == set(summary["random_init"]) == set(FIGURES)
  assert summary["images_per_second"] > 0 and summary["train_seconds"] > 0 and 1 <= summary["effective_rank"] <= 8
  for name in ("curves.png", "augmented_pairs.png", "spectrum.png", "neighbours.png"):
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
  assert loop.main_job(tiny(), folder) == summary
  assert "had finished before" in capsys.readouterr().out
  assert (folder / "metrics.jsonl").read_bytes() == before


def test_a_loss_that_is_not_finite_stops_the_run(tmp_path):
  config = tiny()
  config.optimizer.update(name="sgd", learning_rate=1e30)
  config.eval_every_epochs, config.diagnostics_every, config.checkpoint.every_steps = 0, 0, 1
  with pytest.raises(FloatingPointError, match=r"(?s)step \d+\. The last good checkpoint is step \d+.*learning_rate"):
    loop.main_job(config, tmp_path)
  assert not (tmp_path / "summary.json").exists()


def drive(folder, cache, *kill):
  environment = {**os.environ, "SETTINGS": json.dumps(SETTINGS), "CACHE": str(cache), "PYTHONPATH": str(command.ROOT),
                 "JAX_PLATFORMS": "cpu"}
  return subprocess.run([sys.executable, "-c", DRIVER, str(folder), *map(str, kill)], env=environment,
                        capture_output=True, text=True)


def test_killed_at_any_moment_it_ends_with_the_same_bits(tmp_path):
  cache = tmp_path / "compiled"
  whole = drive(tmp_path / "whole", cache)
  assert whole.returncode == 0, whole.stderr
  last = 0  # killed while the first checkpoint is being written, and a little after a later one
  for pattern, delay in (("checkpoints/5*tmp*", 0), ("checkpoints/15", 3)):
    killed = drive(tmp_path / "killed", cache, pattern, delay)
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    kept = [int(p.name) for p in (tmp_path / "killed" / "checkpoints").glob("*") if p.name.isdigit()]
    assert max(kept, default=0) >= last  # what had been saved is never lost
    last = max(kept, default=0)
  resumed = drive(tmp_path / "killed", cache)
  assert resumed.returncode == 0, resumed.stderr
  assert "Going on from the checkpoint of step" in resumed.stdout
  assert resumed.stdout.splitlines()[-1] == whole.stdout.splitlines()[-1]
  assert _timeless(tmp_path / "killed") == _timeless(tmp_path / "whole")


def _timeless(folder):
  return [{k: v for k, v in record.items() if "seconds" not in k and "per_second" not in k}
          for record in read_metrics(folder)]
