"""The rehearsal of the accelerator's benchmark: every stage leaves its figures, and none is made twice."""

import json
import os
import subprocess
import sys

import jax
import numpy as np
import pytest

from benchmarks import accelerator

FORBIDDEN = ("tensorflow", "tensorflow_datasets", "orbax", "sklearn", "matplotlib", "torch")


@pytest.fixture(scope="module")
def rehearsed(tmp_path_factory):
  """Where a rehearsal without the flags' own processes left its results, in a process that cannot import more."""
  out = tmp_path_factory.mktemp("rehearsal")
  code = (f"import sys; sys.path.insert(0, {str(accelerator.ROOT)!r}); "
          f"sys.modules.update(dict.fromkeys({FORBIDDEN!r}))\nfrom benchmarks import accelerator\n"
          f"sys.exit(accelerator.main(['--out={out}', '--rehearse', '--stages=losses,step,cifar,rules,coupled']))")
  quick = {"JAX_DISABLE_MOST_OPTIMIZATIONS": "1", "JAX_COMPILATION_CACHE_DIR": jax.config.jax_compilation_cache_dir,
           "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0"}
  done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, env=os.environ | quick)
  assert done.returncode == 0, done.stderr
  return out


def cells(out, stage):
  return json.loads((out / f"{stage}.json").read_text())["cells"]


def test_every_stage_leaves_figures_and_a_table(rehearsed):
  for stage, key, figure in [
      ("losses", "nt_xent, n=64, bfloat16, tiles of 32", "of the product's rate"),
      ("losses", "info_nce, n=64, float32, dense", "milliseconds"),
      ("step", "convnet at 8, batch 16", "of the bare encoder"),
      ("cifar", "convnet, 2 epochs", "linear"),
      ("rules", "greedy, seed 0", "effective rank"),
      ("coupled", "temperature 0.2", "cl~nscl/weight_gap")]:
    assert np.isfinite(cells(rehearsed, stage)[key][figure])
    assert f"| {key} |" in (rehearsed / f"{stage}.md").read_text()
    assert not any("error" in figures for figures in cells(rehearsed, stage).values())
  assert [row["epoch"] for row in cells(rehearsed, "cifar")["convnet, 2 epochs"]["curve"]] == [1, 2]
  assert list((rehearsed / "trace").rglob("*.xplane.pb"))


def test_what_is_there_is_not_made_again(rehearsed, monkeypatch):
  monkeypatch.setattr(accelerator, "seconds_of", None)
  before = (rehearsed / "losses.json").read_text()
  assert accelerator.main([f"--out={rehearsed}", "--rehearse", "--stages=losses,cifar"]) == 0
  assert (rehearsed / "losses.json").read_text() == before


def test_a_run_stopped_between_epochs_goes_on(tmp_path, monkeypatch):
  """Stopped after two epochs of three, with a bank and chosen batches; the end is that of the run that was not."""
  monkeypatch.setitem(accelerator.SIZES, True, accelerator.SIZES[True] | {"rules": ("greedy",)})
  whole, stopped = tmp_path / "whole", tmp_path / "stopped"
  rehearse = lambda out: accelerator.main([f"--out={out}", "--rehearse", "--stages=rules"])
  assert rehearse(whole) == 0
  looks = []
  monkeypatch.setattr(accelerator.Stage, "is_over", lambda self: looks.append(0) or len(looks) == 3)
  assert rehearse(stopped) == 75
  assert not (stopped / "rules.json").exists() and (stopped / "greedy,_seed_0.npz").exists()
  assert rehearse(stopped) == 0
  assert not (stopped / "greedy,_seed_0.npz").exists()
  a, b = (cells(out, "rules")["greedy, seed 0"] for out in (whole, stopped))
  assert [a[figure] for figure in ("kNN", "linear", "effective rank")] == [
      b[figure] for figure in ("kNN", "linear", "effective rank")]


def test_a_figure_that_takes_longer_than_is_left_waits(tmp_path):
  stage = accelerator.Stage("losses", tmp_path, 100)
  stage.longest = 200
  with pytest.raises(accelerator.OutOfTime):
    stage.cell("n=4", dict)
  assert stage.cell("a run", lambda: {"kNN": 1.0}, resumes=True) == {"kNN": 1.0}


@pytest.mark.parametrize("suffix", [".tar", ".npz"])
def test_images_come_from_a_tar_or_an_npz(tmp_path, suffix):
  path = tmp_path / f"images{suffix}"
  images = np.random.default_rng(0).integers(0, 256, (4, 4, 4, 3)).astype(np.uint8)
  if suffix == ".npz":
    np.savez(path, train_images=images, train_labels=[0, 1, 0, 1], test_images=images[:2], test_labels=[1, 0])
  else:
    _pack(path, tmp_path, images)
  data = accelerator.images_of(path, tmp_path)
  order = [0, 1, 2, 3] if suffix == ".npz" else [0, 2, 1, 3]  # a tar is read class by class
  assert data.train.labels.tolist() == [(0, 1, 0, 1)[i] for i in order] and len(data.class_names) == 2
  np.testing.assert_array_equal(data.train.images(), images[order])


def _pack(path, folder, images):
  import tarfile

  from PIL import Image
  with tarfile.open(path, "w") as tar:
    for part in ("train", "test"):
      for i, (pixels, name) in enumerate(zip(images, "cdcd")):
        file = folder / "image.png"
        Image.fromarray(pixels).save(file)
        tar.add(file, f"cifar10/{part}/{name}/{i}.png")


def test_wrong_arguments_are_named(tmp_path, capsys):
  with pytest.raises(SystemExit):
    accelerator.main([f"--out={tmp_path}", "--stages=loses"])
  assert "'loses'" in capsys.readouterr().err
  with pytest.raises(SystemExit):
    accelerator.main([f"--out={tmp_path}"])
  assert "--data is needed" in capsys.readouterr().err
  with pytest.raises(SystemExit, match="holds no .whl"):
    accelerator.main([f"--out={tmp_path}", "--rehearse", f"--wheels={tmp_path}"])
