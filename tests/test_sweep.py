"""Sweeps: the cells of a grid; those of one shape share what is compiled, a failing one costs the others nothing."""

import json
import math
import pathlib
import subprocess
import sys

import jax
import numpy as np
import pytest
from PIL import Image
from scipy import stats

from spectral_jax._errors import ConfigError, RunError
from spectral_jax.config import load_config
from spectral_jax.data import open_dataset
from spectral_jax.defaults import learner, learners
from spectral_jax.mesh import make_mesh
from spectral_jax.studies import batch_variance, cases, curves, grid, intervals, page, study, sweeping
from spectral_jax.workdir.folder import claim, flat
from tests.test_eager import compilations

TINY = {
    "batch_size": 64, "steps": 6, "log_every": 2, "diagnostics_every": 0, "eval_every_epochs": 0,
    "optimizer.warmup_epochs": 0, "model.width": 0.125, "model.projector_hidden": 8, "model.projector_dim": 8,
    "eval.train_limit": 200, "eval.test_limit": 60, "eval.shot_draws": 2, "eval.probe_steps": 5, "eval.shot_steps": 5}
OVER = "data.classes=4;loss.temperature=0.1,1;seed=0,1"
SHOW = ["linear_accuracy", "test_encoder_cka", "weight_gap", "test_projector_alignment"]


def tiny(**changes):
  config = load_config("digits")
  config.update_from_flattened_dict({**TINY, **changes})
  config.learners = learners(cl=learner("dcl"), nscl=learner("nscl"))
  return config


def study_of(config, over):
  axes = grid.parse(over, config)
  return sweeping.study_of(config, axes, grid.cells(config, axes), SHOW)


@pytest.fixture(scope="module", autouse=True)
def one():
  """Every run on one device: what is compiled serves the whole module."""
  mesh = make_mesh(devices=jax.devices()[:1])
  with pytest.MonkeyPatch.context() as patch:
    patch.setattr(cases, "make_mesh", lambda *_: mesh)
    yield


@pytest.fixture(scope="module")
def swept(tmp_path_factory):
  """A sweep of coupled learners, its folder, and how many programs were compiled after the start of each cell."""
  folder, counts = tmp_path_factory.mktemp("swept") / "sweep", []
  train = cases.train
  with compilations() as seen, pytest.MonkeyPatch.context() as patch:
    patch.setattr(cases, "train", lambda *args, **kwargs: (counts.append(len(seen)), train(*args, **kwargs))[1])
    content = study.conduct(study_of(tiny(), OVER), tiny(), folder)
    counts.append(len(seen))
  return content, folder, np.diff(counts)


def test_every_combination_is_a_run_with_the_classes_it_saw(swept):
  content, folder, _ = swept
  assert [run["values"] for run in content["runs"]] == [
      {"data.classes": "4", "loss.temperature": t, "seed": s} for t in (0.1, 1.0) for s in (0, 1)]
  assert all(len(run["class_names"]) == 4 for run in content["runs"])
  for run in content["runs"]:
    config = flat(json.loads((folder / run["cell"] / "config.json").read_text()))
    assert {key: config[key] for key in run["values"]} == run["values"]
  assert json.loads((folder / "results.json").read_text())["summary"] == json.loads(json.dumps(content["summary"]))


def test_a_published_sweep_has_its_pictures_beside_the_page(swept, tmp_path):
  content, folder, _ = swept
  path = tmp_path / "docs" / "page.md"
  study.publish(path, "mine", "Mine", study_of(tiny(), OVER), content, folder)
  copies = {"page_mine.png": "curves.png", "page_mine_against_loss.temperature.png": "against_loss.temperature.png"}
  assert {file.name for file in path.parent.iterdir()} == {"page.md", "page_mine.json", *copies}
  for copy, picture in copies.items():
    assert (path.parent / copy).read_bytes() == (folder / picture).read_bytes() and f"({copy})" in path.read_text()
  stored = json.loads((path.parent / "page_mine.json").read_text())
  assert stored["about"]["pictures"] == list(copies) and "## Mine" in path.read_text()
  assert content["about"]["pictures"] == list(copies.values())


def test_where_no_case_could_begin_the_reason_is_said_once_and_the_folder_is_free(tmp_path):
  wrong, over = tiny(**{"optimizer.warmup_epochs": 9}), "loss.temperature=0.1,1"
  with pytest.raises(RunError, match="^every case failed: the warm-up takes [^;]*; lower [^;]*$"):
    study.conduct(study_of(wrong, over), wrong, tmp_path)
  with claim(tmp_path, tiny()):
    pass


def test_every_metric_has_its_panel(tmp_path):
  metrics = [f"m{i}" for i in range(5)]
  lines = {"one": [[dict.fromkeys(metrics, 0.5) | {"step": step} for step in (1, 2)]]}
  height = lambda count: Image.open(
      tmp_path / curves.save_training(tmp_path / "curves.png", lines, metrics[:count])).height
  assert height(5) > 1.8 * height(4)


def test_cells_of_one_shape_compile_once(swept):
  _, _, compiled = swept
  assert compiled[0] > 0  # the first compiles its evaluation; its steps were compiled before the count began
  assert list(compiled[1:]) == [0, 0, 0]


def test_cells_are_run_shape_by_shape_in_whatever_order_they_are_named(swept):
  config = tiny()
  cells = grid.cells(config, grid.parse("seed=0,1;data.classes=2,4", config))
  assert cases._in_order({name: copy for name, (_, copy) in cells.items()}) == [
      f"seed={seed},data.classes={classes}" for classes in (2, 4) for seed in (0, 1)]


def test_every_learner_and_pair_is_measured(swept):
  content, _, _ = swept
  last = content["runs"][0]["curve"][-1]
  for owner in ("cl", "nscl"):
    for layer in ("encoder", "projector"):
      assert 0 <= last[f"{owner}/test_{layer}_alignment"] <= 4 and last[f"{owner}/test_{layer}_uniformity"] <= 0
      assert last[f"{owner}/test_{layer}_effective_rank"] >= 1
      assert 0 <= last[f"{owner}/test_{layer}_wasserstein_uniformity"] <= 1
    assert 0 <= last[f"{owner}/linear_accuracy"] <= 1
  assert 0 < last["cl~nscl/test_encoder_cka"] <= 1 + 1e-6 and last["cl~nscl/weight_gap"] > 0


def test_table_and_pictures(swept):
  content, folder, _ = swept
  assert content["about"]["pictures"] == ["curves.png", "against_loss.temperature.png"]
  assert all((folder / picture).stat().st_size > 5000 for picture in content["about"]["pictures"])
  text = page.sweep_section(content)
  assert "| setting | seeds | cl | nscl |" in text and "| setting | seeds | cl~nscl |" in text
  values = [run["curve"][-1]["cl~nscl/weight_gap"] for run in content["runs"][:2]]
  row = content["summary"]["data.classes=4, loss.temperature=0.1"]
  assert row["seeds"] == 2 and row["metrics"]["cl~nscl/weight_gap"][0] == pytest.approx(np.mean(values))
  assert "nan" not in text and "| data.classes=4, loss.temperature=1.0 | 2 |" in text


def test_what_is_there_is_not_done_again_and_seeds_can_be_added(swept, monkeypatch):
  content, folder, _ = swept
  made = []
  monkeypatch.setattr(cases, "_open", lambda config, *_: made.append(config.seed) or (_ for _ in ()).throw(
      ConfigError("not run in this test")))
  found, failures = cases.run_cases(study_of(tiny(), OVER + ",2").cases, folder)
  assert made == [2] * 2 and len(found) == 4 and len(failures) == 2
  assert found[content["runs"][3]["cell"]]["curve"] == content["runs"][3]["curve"]


def test_a_failing_cell_is_reported_and_costs_the_others_nothing(swept, tmp_path):
  config = tiny(**{"steps": 2, "data.classes": "4"})
  content = study.conduct(study_of(config, "batch_size=99999,64"), config, tmp_path)
  assert [run["cell"] for run in content["runs"]] == ["batch_size=64"]
  assert "larger than the training set" in content["failures"]["batch_size=99999"]
  assert "- batch_size=99999: config.batch_size=99999 is larger" in (tmp_path / "table.md").read_text()


def test_values_have_the_types_of_their_keys():
  config = tiny()
  axes = grid.parse("loss.temperature=1,None; batch_size=32;augment.crop_scale=None,(),(0.2, 1.0);data.classes=2;"
                    "optimizer.scale_with_batch=true;learners.cl.temperature=2;"
                    "loss.kwargs.kernel=gaussian(2.0),log(1)", config)
  assert axes == {
      "loss.temperature": [1.0, None], "batch_size": [32], "augment.crop_scale": [None, (), (0.2, 1.0)],
      "data.classes": ["2"], "optimizer.scale_with_batch": [True], "learners.cl.temperature": [2.0],
      "loss.kwargs.kernel": ["gaussian(2.0)", "log(1)"]}
  assert isinstance(axes["learners.cl.temperature"][0], float)


@pytest.mark.parametrize("over, message", [
    ("", "--over is empty"), ("seed", "names no values"), ("seed=", "names no values"),
    ("seed=0;seed=1", "has seed twice"),
    ("seed=1,1", "one value twice"), ("loss.temprature=1", "Did you mean 'loss.temperature'"),
    ("classes=2", "Did you mean 'data.classes'"), ("loss=1", "is a section; name one of its keys: kwargs"),
    ("seed=a", "seed takes int, got 'a'"), ("seed=1.5", "seed takes int"), ("batch_size=True", "batch_size takes int"),
    ("optimizer.momentum=high", "optimizer.momentum takes float"), ("epochs=1,,2", "epochs takes int, got ''")])
def test_wrong_keys_and_values_are_named(over, message):
  with pytest.raises(ConfigError, match=message.replace("(", r"\(")):
    grid.parse(over, tiny())


@pytest.mark.parametrize("over, message", [
    ("seed=0,-1", "cell seed=-1 cannot be run: config.seed must not be negative"),
    ("learners.cl.name=dcl,dlc", "cell learners.cl.name=dlc cannot be run"),
    ("loss.temperature=0.1,0", "cell loss.temperature=0.0 cannot be run")])
def test_a_cell_that_no_run_could_use_is_answered_before_any_work(over, message):
  config = tiny()
  with pytest.raises(ConfigError, match=message):
    grid.cells(config, grid.parse(over, config))


def test_the_command_answers_a_wrong_key_before_any_work(tmp_path):
  command = [sys.executable, "-m", "spectral_jax.sweep", "--over=loss.temprature=1", f"--workdir={tmp_path / 'sweep'}"]
  done = subprocess.run(command, cwd=pathlib.Path(__file__).parent.parent, capture_output=True, text=True)
  assert done.returncode == 1 and "Did you mean 'loss.temperature'" in done.stderr and "Traceback" not in done.stderr
  assert not (tmp_path / "sweep").exists()


def test_names_of_cells_are_names_of_folders():
  names = {grid.cell_name({"data.data_dir": value}) for value in ("a/b", "a%2Fb", "x" * 300, "x" * 299, "..")}
  assert len(names) == 5 and all("/" not in name and len(name) <= 200 for name in names)


def test_values_that_are_no_numbers_have_places_on_an_axis(tmp_path):
  lines = {"panel": {"line": [("dcl", [0.1, 0.2]), ("dhel", [0.3, math.nan])]}}
  assert curves.save_against(tmp_path / "picture.png", "loss.name", lines) == "picture.png"
  assert (tmp_path / "picture.png").stat().st_size > 5000


def test_spearman_is_scipys_and_its_interval_covers():
  random = np.random.default_rng(0)
  x = random.normal(size=40).round(1)  # with ties
  y = x + random.normal(size=40)
  value, low, high = intervals.spearman(x, y)
  assert value == pytest.approx(stats.spearmanr(x, y).statistic)
  assert low < value < high and 0.2 < high - low < 0.8
  assert intervals.spearman(x, -x)[:2] == (-1, -1) and all(map(math.isnan, intervals.spearman(np.ones(5), y[:5])))


def test_gradient_variance_of_a_mean_over_independent_examples_falls_as_one_over_the_batch():
  run = cases.prepare(tiny(), open_dataset(tiny().data), make_mesh(devices=jax.devices()[:1]))
  rows = batch_variance.batch_variance(
      run, run.init(), {"kcl": learner("kcl"), "attraction": learner("kcl", gamma=1e-6)}, (2, 16), batches=24)
  # Without repulsion the loss is a mean over pairs.
  ratio = rows["attraction"][2]["variance"] / (8 * rows["attraction"][16]["variance"])
  assert 0.6 < ratio < 1.7
  # KCL's expectation does not depend on the batch: its losses agree within their intervals.
  (small, half), (large, other) = (rows["kcl"][size]["loss"] for size in (2, 16))
  assert abs(small - large) < 2 * math.hypot(half, other)
  for row in (*rows["kcl"].values(), *rows["attraction"].values()):
    assert row["normalized"] == pytest.approx(row["variance"] / row["squared_mean"])
  for arguments, message in ((((1, 2), 5), "between 2 and"), (((2, 4), 1), "batches must be at least 2")):
    with pytest.raises(ValueError, match=message):
      batch_variance.batch_variance(run, None, {}, arguments[0], batches=arguments[1])
