"""The report: one file, the same bytes twice, complete in what it shows, made from a workdir alone."""

import json
import pathlib
import re
import shutil
import subprocess
import sys

import hypothesis
import hypothesis.strategies as st
import numpy as np
import pytest
import vl_convert

from spectral_jax import job
from spectral_jax._errors import ConfigError
from spectral_jax.config import load_config
from spectral_jax.defaults import learner, learners
from spectral_jax.reports import charts, html, pictures, recorded, report, summary
from spectral_jax.studies import study_page, variance_page
from spectral_jax.workdir.folder import flat
from spectral_jax.workdir.logs import read_metrics

SETTINGS = {
    "batch_size": 64, "steps": 12, "log_every": 2, "diagnostics_every": 5, "eval_every_epochs": 0,
    "checkpoint.every_steps": 12, "optimizer.warmup_epochs": 0, "model.width": 0.125, "model.projector_hidden": 8,
    "model.projector_dim": 8, "eval.knn_limit": 200, "eval.test_limit": 60, "eval.train_limit": 200,
    "eval.baseline_limit": 200, "eval.shot_draws": 2, "eval.probe_steps": 5, "eval.shot_steps": 5}
MEGABYTE = 2**20


@pytest.fixture(scope="module")
def workdir(one_device_jobs, tmp_path_factory):
  """A finished run of two learners."""
  config = load_config("digits")
  config.update_from_flattened_dict(SETTINGS)
  config.learners = learners(cl=learner("dcl"), ce=learner("cross_entropy"))
  config.main_learner = "cl"
  folder = tmp_path_factory.mktemp("reported")
  job.main_job(config, folder)
  return folder


def specifications(page):
  """Every chart of a page, as Vega-Lite."""
  return [json.loads(found.replace("<\\/", "</"))
          for found in re.findall(r'<script type="application/json" class="chart">(.*?)</script>', page)]


def names_drawn(page):
  """Metrics' or learners' names in tooltips and legends."""
  return json.dumps(specifications(page))


def test_a_run_leaves_its_report_and_rebuilds_it_byte_for_byte(workdir, tmp_path):
  first = (workdir / "report.html").read_bytes()
  assert len(first) < 2 * MEGABYTE
  shutil.copytree(workdir, tmp_path / workdir.name, ignore=shutil.ignore_patterns("checkpoints", "*.png", "events*"))
  again = report.write(tmp_path / "again.html", [tmp_path / workdir.name])
  assert again.read_bytes() == first
  # In another process as well, by the command.
  made = subprocess.run([sys.executable, "-m", "spectral_jax.report", tmp_path / workdir.name, f"--out={tmp_path}/b.html"],
                        capture_output=True, text=True)
  assert made.returncode == 0, made.stderr
  assert (tmp_path / "b.html").read_bytes() == first


def test_it_asks_the_network_for_nothing(workdir):
  page = (workdir / "report.html").read_text()
  markup = re.sub(r"<script>.*?</script>", "", page, flags=re.DOTALL)
  assert not re.findall(r"""(?:src|href)\s*=\s*["'](?!data:)""", markup) and "@import" not in page
  assert not re.search(r"url\((?!data:)", re.sub(r"<script.*?</script>", "", page, flags=re.DOTALL))
  assert 'name="viewport"' in page and "prefers-color-scheme: dark" in page


def test_every_number_that_was_logged_is_in_some_chart(workdir):
  page = (workdir / "report.html").read_text()
  drawn = specifications(page)
  values = set()
  for one in drawn:
    if isinstance(one["data"]["values"], str):
      values |= {cell for line in one["data"]["values"].splitlines()[1:] for cell in line.split(",")}
  said = set(re.findall("<(?:b|td)>(.*?)</", page))  # what was measured once
  for record in read_metrics(workdir):
    for key, value in record.items():
      if key not in recorded.COUNTED and key != "knn_accuracy":  # which stands there under the main learner's name
        assert charts.number(value) in values or html.said(value) in said, key


def test_what_was_measured_once_stands_in_figures_and_steps_are_whole(workdir, tmp_path):
  shutil.copy(workdir / "config.json", tmp_path)
  (tmp_path / "metrics.jsonl").write_text('{"step": 1, "loss": 2.5, "uniformity": -3.55, "alignment": 3.55}\n'
                                          '{"step": 2, "loss": 2.25, "alignment": 3.55}\n')
  page = report.write(tmp_path / "report.html", [tmp_path]).read_text()
  assert "Measured once, at step 1:" in page and "<b>-3.5500</b>" in page
  loss, alignment = (one["layer"][0]["encoding"] for one in specifications(page))
  assert loss["x"]["axis"]["values"] == [1, 2] and "datum.label" in loss["y"]["axis"]["labelExpr"]
  assert "'.4~g'" in alignment["y"]["axis"]["labelExpr"]  # Vega's own label of an axis of one value is "4"


def test_the_pictures_of_a_short_run_have_the_steps_of_the_run():
  figure = pictures.curves([{"step": 1, "loss": 1.0, "alignment": 1.0}, {"step": 3, "loss": 0.5}])
  ends = [axis.get_xlim() for axis in figure.axes if axis.get_visible()]
  assert len(ends) == 2 and all(low == 0 and 3 < high < 4 for low, high in ends)


def test_long_names_of_learners_stand_apart(capsys):
  scores = {"knn_accuracy": 0.5, "linear_accuracy": 0.25, "few_shot_accuracy": 0.75}
  run = {"learners": {"cl": scores, "nscl_with_positive": scores}, "raw_pixels": scores, "random_init": scores,
         "images_per_second": 1.0, "images_per_second_with_compilation": False, "train_seconds": 1.0,
         "final_loss": 1.0, "effective_rank": 1.0, "best_step": None}
  summary.print_table(run, 5, pathlib.Path("none"))
  said = capsys.readouterr().out.splitlines()
  assert said[1].split() == ["cl", "nscl_with_positive", "raw", "pixels", "random", "init"]
  assert {len(line) for line in said[1:5]} == {len(said[1])}


@pytest.mark.parametrize("made", ["run", "several", "study"])
def test_charts_are_valid_vega_lite(workdir, made, tmp_path, capfd):
  for one in {json.dumps(s): s for s in specifications(page_of(made, workdir, tmp_path))}.values():
    compiled = vl_convert.vegalite_to_vega(one)
    assert compiled["marks"]
  assert "WARN" not in capfd.readouterr().err


def page_of(made, workdir, tmp_path):
  if made == "run":
    return (workdir / "report.html").read_text()
  if made == "study":
    (tmp_path / "results.json").write_text(json.dumps(STUDY))
    return study_page.write(tmp_path / "report.html", tmp_path).read_text()
  other = tmp_path / "other"
  if not other.exists():
    shutil.copytree(workdir, other, ignore=shutil.ignore_patterns("checkpoints"))
    config = json.loads((other / "config.json").read_text())
    config["optimizer"]["learning_rate"] = 0.125
    (other / "config.json").write_text(json.dumps(config))
  return report.write(tmp_path / "several.html", [workdir, other]).read_text()


def test_scores_pairs_maps_and_neighbors_are_there(workdir):
  page, found = (workdir / "report.html").read_text(), json.loads((workdir / "summary.json").read_text())
  for scores in (*found["learners"].values(), found["raw_pixels"], found["random_init"]):
    for key in ("knn_accuracy", "linear_accuracy", "few_shot_accuracy"):
      assert f">{scores[key]:.4f}</td>" in page
  assert page.count('src="data:image/') == 3 * 10 + 8 * 9
  assert "ce ~ cl" in page and "Linear CKA, encoder, test set" in page
  best = max(scores["linear_accuracy"] for scores in (
      *found["learners"].values(), found["raw_pixels"], found["random_init"]))
  assert f'class="best">{best:.4f}</td>' in page
  maps = [one for one in specifications(page) if str(one["data"]["values"]).startswith("a,b,c")]
  assert [len(one["data"]["values"].splitlines()) for one in maps] == [61, 61]  # one a learner, 60 test images each


def test_several_runs_begin_with_what_differs(workdir, tmp_path):
  page = page_of("several", workdir, tmp_path)
  assert page.index("Where the configs differ") < page.index("What the features are worth")
  [row] = re.findall(r"<tr><td>optimizer.learning_rate</td><td>0.003</td><td>0.125</td></tr>", page)
  table = page[page.index("Where the configs differ"):page.index("What the features are worth")]
  # A key that one run lacks, an empty one and None are three things.
  runs = [recorded.Recorded(name, workdir, config, {}, {}, {}) for name, config in (
      ("a", {"one": None, "two": 0}), ("b", {"one": "", "two": 0, "three": 3}))]
  assert [re.findall("<td>(.*?)</td>", row) for row in report._differences(runs).split("<tr>")[2:]] == [
      ["one", "None", "&quot;&quot;"], ["three", "—", "3"]]
  assert table.count("<tr>") == 2 and len(page) < 2 * MEGABYTE
  assert f"{workdir.name}: cl" in names_drawn(page) and "other: cl" in names_drawn(page)


def test_the_best_are_those_of_one_data_set(workdir):
  def run(name, data, accuracy):
    config = flat(json.loads((workdir / "config.json").read_text())) | {"data.name": data, "learners": {}}
    return recorded.Recorded(name, workdir, config, {"linear_accuracy": accuracy}, {}, {})

  runs = [run("a", "digits", 0.9), run("b", "digits", 0.8), run("c", "cifar10", 0.5)]
  assert re.findall('class="best">(.*?)<', report._scores(runs)) == ["0.9000", "0.5000"]


@hypothesis.given(st.floats(5e-324, 1e308), st.floats(0, 1e308))
@hypothesis.example(1e-5, 4e-5)
@hypothesis.example(1.0, 4e-5)
@hypothesis.example(5e-324, 5e-324)
@hypothesis.settings(deadline=None, derandomize=True)
def test_round_numbers_lie_in_the_range_and_are_few(low, width):
  found = charts._round_numbers([low, low + width])
  assert len(found) <= 12 and found == sorted(set(found)) and all(low <= x <= low + width for x in found)
  assert found or width < 1e-5 * (low + width) or low < 1e-300


@pytest.mark.parametrize("values, ticks", [
    ([1.78, 4.47], ["2", "2.5", "3", "3.5", "4"]), ([25, 251], ["30", "50", "70", "100", "150", "200"]),
    ([1e-4, 3.0], ["0.0001", "0.001", "0.01", "0.1", "1"])])
def test_a_logarithmic_axis_has_round_numbers(values, ticks):
  labels = lambda logarithmic: re.findall(r">([\d.]+)</text>", vl_convert.vegalite_to_svg(
      charts.lines({"a": dict(enumerate(values))}, logarithmic=logarithmic)))[2:]
  assert labels(True) == ticks
  assert len(labels(False)) <= 10


def test_a_run_that_has_not_finished_is_shown_as_far_as_it_is(workdir, tmp_path):
  for name in ("config.json", "metrics.jsonl"):
    shutil.copy(workdir / name, tmp_path)
  page = report.write(tmp_path / "report.html", [tmp_path]).read_text()
  assert "has not finished" in page and "cl/loss" not in page and specifications(page)
  (tmp_path / "metrics.jsonl").unlink()
  assert "has not finished" in report.write(tmp_path / "report.html", [tmp_path]).read_text()


def test_unknown_metrics_go_to_the_others_and_odd_numbers_do_no_harm(workdir, tmp_path):
  shutil.copy(workdir / "config.json", tmp_path)
  lines = [{"step": 1, "loss": 2.0, "new_metric": 3.0, "a<b>/odd": 1.0, "word": "x"},
           {"step": 2, "loss": float("nan"), "new_metric": float("inf"), "a<b>/odd": -1.0}]
  (tmp_path / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
  page = report.write(tmp_path / "report.html", [tmp_path]).read_text()
  others = page[page.index("Other metrics"):]
  assert "new metric" in others and "odd" in others and "a<b>" not in re.sub(r"<script.*?</script>", "", page, flags=re.DOTALL)
  assert json.dumps(specifications(page)).count("NaN") == 0
  # Damage is named.
  (tmp_path / "report.npz").write_bytes(b"nothing")
  with pytest.raises(ConfigError, match="report.npz is damaged.*delete it"):
    report.write(tmp_path / "report.html", [tmp_path])
  for garbage in ("{", "[1, 2]", '{"loss": 1.0}', '{"step": "x"}'):
    (tmp_path / "metrics.jsonl").write_text(f"{garbage}\n")
    with pytest.raises(ConfigError, match="metrics.jsonl is damaged in line 1"):
      report.write(tmp_path / "report.html", [tmp_path])
  with pytest.raises(ConfigError, match="named twice"):
    report.write(tmp_path / "report.html", [workdir, workdir])


def test_text_cannot_break_out_of_a_chart():
  name = "it's </script><b> \\ \n"
  drawn = html.chart(charts.lines({name: {1: 1.0, 2: 2.0}, "b": {1: 1.0}}))
  assert drawn.count("</script>") == 1
  [one] = specifications(drawn)
  assert vl_convert.vegalite_to_vega(one)
  assert "<b>" not in html.table(["<b>"], [["<b>", 1.0]])


def test_a_long_run_stays_small_and_keeps_its_last_point(tmp_path, workdir):
  shutil.copy(workdir / "config.json", tmp_path)
  random = np.random.default_rng(0)
  names = [f"metric_{i}" for i in range(60)] + ["loss"]
  with open(tmp_path / "metrics.jsonl", "w") as file:
    file.writelines(json.dumps({"step": step, **dict(zip(names, random.normal(size=len(names)).tolist()))}) + "\n" for step in range(10, 30_010, 10))
  path = report.write(tmp_path / "report.html", [tmp_path])
  assert path.stat().st_size < 2 * MEGABYTE
  assert all(one["data"]["values"].splitlines()[-1].startswith("30000,") for one in specifications(path.read_text()))


def test_thinned_points_are_spread_and_end_with_the_last():
  assert charts.thinned(list(range(10)), 4) == [0, 3, 6, 9] and charts.thinned([1, 2], 5) == [1, 2]
  assert charts.thinned(list(range(9)), 4)[-1] == 8 and len(charts.thinned(list(range(1001)), 100)) <= 101
  assert [charts.number(x) for x in (1, 0.1234567, float("nan"), None, 1e-9)] == ["1", "0.12346", "", "", "1e-09"]


def test_files_that_lack_something_are_named(workdir, tmp_path):
  for name in ("config.json", "summary.json", "report.npz"):
    shutil.copy(workdir / name, tmp_path)
  whole = {name: (tmp_path / name).read_bytes() for name in ("config.json", "summary.json")}
  config, scores = (json.loads(content) for content in whole.values())
  for name, content, message in (
      ("summary.json", {}, "it lacks raw_pixels, random_init"),
      ("summary.json", {**scores, "raw_pixels": {"knn_accuracy": None}}, "the scores of raw_pixels are not knn_accuracy"),
      ("summary.json", {**scores, "learners": {"cl": 3}}, "the scores of cl are not"),
      ("summary.json", {**scores, "learners": 3}, "the scores of learners are not"),
      ("config.json", {**config, "learners": 3}, "'int' object has no attribute 'items'")):
    (tmp_path / name).write_text(json.dumps(content))
    with pytest.raises(ConfigError, match=f"{name} is damaged .{message}.*Delete it and give the run's"):
      report.write(tmp_path / "report.html", [tmp_path])
    (tmp_path / name).write_bytes(whole[name])
  (tmp_path / "summary.json").unlink()
  (tmp_path / "summary.json").mkdir()
  with pytest.raises(ConfigError, match="summary.json is damaged .*Is a directory"):
    report.write(tmp_path / "report.html", [tmp_path])
  (tmp_path / "summary.json").rmdir()
  (tmp_path / "summary.json").write_bytes(whole["summary.json"])
  with np.load(tmp_path / "report.npz") as stored:
    arrays = dict(stored)
  del arrays["map_share_1"], arrays["images"]
  np.savez(tmp_path / "report.npz", **arrays)
  with pytest.raises(ConfigError, match="report.npz is damaged .it lacks images, map_share_1.; delete it"):
    report.write(tmp_path / "report.html", [tmp_path])


STUDY = {
    "about": {"command": "python -m spectral_jax.sweep --over='x=1,2'", "date": "2026-11-25", "hardware": "1 x cpu",
              "setting": "digits.", "seeds": "0, 1"},
    "show": ["knn_accuracy"], "over": {"x": [1, 2], "seed": [0, 1]}, "targets": {"knn_accuracy": 0.75},
    "summary": {f"x={x}": {"values": {"x": x}, "seeds": 2, "metrics": {
        "knn_accuracy": [0.5 + x / 10, 0.0123], "other": [1.0, float("nan")]}} for x in (1, 2)},
    "runs": [{"cell": f"x={x}", "values": {"x": x, "seed": seed}, "curve": [
        {"step": 5 * (t + 1), "examples": t, "seconds": t + seed, "knn_accuracy": 0.1 * (t + x + seed), "other": 1.0}
        for t in range(4)]} for x in (1, 2) for seed in (0, 1)],
    "failures": {"x=3": "the loss <is> nan"}}


def test_a_study_has_a_page_of_its_means_and_intervals(tmp_path):
  (tmp_path / "results.json").write_text(json.dumps(STUDY))
  page = study_page.write(tmp_path / "report.html", tmp_path).read_text()
  assert page == study_page.write(tmp_path / "b.html", tmp_path).read_text() and study_page.is_study(tmp_path)
  assert "0.600 ± 0.012" in page and "the loss &lt;is&gt; nan" in page and "--over=&#x27;x=1,2&#x27;" in page
  against, training = (one["data"]["values"].splitlines() for one in specifications(page)[:2])
  assert [line.split(",")[:2] for line in against[1:]] == [["1", "0.45"], ["2", "0.55"]]  # final means against x
  columns = training
  # Student's t with one degree of freedom: half = 12.706 s / sqrt(2), s of (0.1, 0.2) being 0.0707.
  mean, low, high = (float(x) for x in columns[1].split(",")[1:4])
  assert mean == pytest.approx(0.15) and high - mean == pytest.approx(12.706 * 0.0707107 / np.sqrt(2), rel=1e-3)
  assert mean - low == pytest.approx(high - mean)


def test_a_study_is_not_put_beside_runs(workdir, tmp_path):
  (tmp_path / "results.json").write_text(json.dumps(STUDY))
  words = [sys.executable, "-m", "spectral_jax.report", str(tmp_path), str(workdir), f"--out={tmp_path}/page.html"]
  done = subprocess.run(words, capture_output=True, text=True)
  assert done.returncode == 1 and "a study has a page of its own; name it alone" in done.stderr
  assert not (tmp_path / "page.html").exists()


def test_a_damaged_study_is_named(tmp_path):
  for name, pages in (("results.json", study_page), ("variance.json", variance_page)):
    (tmp_path / name).write_text('{"about": 1}')
    with pytest.raises(ConfigError, match=f"{name} is damaged .it lacks about, .*Give the study's command again"):
      pages.write(tmp_path / "report.html", tmp_path)
