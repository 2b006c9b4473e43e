"""Comparisons: what differs between runs and what does not, what the figures mean, that nothing is done twice."""

import json
import math
import warnings

import jax
import numpy as np
import pytest
from scipy import stats

from spectral_jax import compare
from spectral_jax.config import load_config
from spectral_jax.evaluation import SCORES
from spectral_jax.mesh import make_mesh
from spectral_jax.studies import cases, curves, intervals, page, selection_rules

FIGURES = [one.key for one in SCORES]
TARGETS = {"linear_accuracy": 0.5, "knn_accuracy": 1.1}


def tiny():
  config = load_config("digits")
  config.update_from_flattened_dict({
      "batch_size": 240, "epochs": 3, "log_every": 2, "diagnostics_every": 0, "eval_every_epochs": 1,
      "optimizer.warmup_epochs": 0, "model.width": 0.125, "model.projector_hidden": 8, "model.projector_dim": 8,
      "eval.train_limit": 200, "eval.test_limit": 60, "eval.shot_draws": 2, "eval.probe_steps": 5,
      "eval.shot_steps": 5})
  return config


@pytest.fixture(scope="module")
def compared(tmp_path_factory):
  folder = tmp_path_factory.mktemp("compared")
  made = {(rule, seed): selection_rules.with_rule(tiny(), rule, seed)
          for rule in ("random", "hard_balanced") for seed in (0, 1)}
  arguments = ({f"{rule}-{seed}": config for (rule, seed), config in made.items()}, folder)
  found, failures = cases.run_cases(*arguments, mesh=make_mesh(devices=jax.devices()[:1]))
  assert not failures
  return [{"rule": rule, "seed": seed, **found[f"{rule}-{seed}"]} for rule, seed in made], arguments


def test_every_rule_and_seed_is_scored_on_one_schedule(compared):
  results, _ = compared
  made = [(r["rule"], r["seed"]) for r in results]
  assert made == [("random", 0), ("random", 1), ("hard_balanced", 0), ("hard_balanced", 1)]
  for result in results:
    assert [p["step"] for p in result["curve"]] == [5, 10, 15] and result["curve"][-1]["examples"] == 3600
    assert all(0 <= p[name] <= 1 for p in result["curve"] for name in FIGURES)
    seconds = [p["seconds"] for p in result["curve"]]
    assert seconds == sorted(seconds) and seconds[0] > 0
    busy = [p["processor_seconds"] for p in result["curve"]]
    assert busy == sorted(busy) and busy[0] > 0
    assert (result["selection_seconds"] > 0) == (result["rule"] != "random")


def test_runs_of_a_seed_share_all_but_the_batches(compared):
  results, _ = compared
  curve = {(r["rule"], r["seed"]): [[p[name] for name in FIGURES] for p in r["curve"]] for r in results}
  for seed in (0, 1):  # the first two epochs have random batches in every run: the same ones, from the same start
    assert curve["random", seed][:2] == curve["hard_balanced", seed][:2]
  assert curve["random", 0] != curve["random", 1]


def test_what_is_there_is_not_done_again(compared, monkeypatch):
  results, arguments = compared
  monkeypatch.setattr(cases, "train", None)
  assert list(cases.run_cases(*arguments)[0].values()) == [
      {k: v for k, v in result.items() if k not in ("rule", "seed")} for result in results]


def test_a_case_that_fails_costs_the_others_nothing(compared, tmp_path):
  bad, good = tiny(), tiny()
  bad.optimizer.update(name="sgd", learning_rate=1e30)
  bad.epochs = good.epochs = 1
  found, failures = cases.run_cases({"bad": bad, "good": good}, tmp_path, mesh=make_mesh(devices=jax.devices()[:1]))
  assert list(found) == ["good"] and "loss" in failures["bad"]


def test_table_picture_and_page(compared, tmp_path):
  results, _ = compared
  summary = intervals.summarize(results, TARGETS)
  assert summary["random"]["linear_accuracy_target"]["reached"] == 2
  assert summary["hard_balanced"]["knn_accuracy_target"]["reached"] == 0
  about = {"command": "command", "date": "date", "hardware": "hardware", "setting": "setting.", "seeds": "0, 1",
           "pictures": ["curves.png"]}
  text = page.section({"about": about, "targets": TARGETS, "summary": summary})
  assert "| hard_balanced | 0 of 2 |\n" in text and "nan" not in text
  assert text.count("against random") == 6 and "processor / random's" in text
  alone = intervals.summarize([run for run in results if run["rule"] != "random"], TARGETS)
  alone = page.section({"about": about, "targets": TARGETS, "summary": alone})
  assert "random" not in alone.replace("selected / random rank", "") and "nan" not in alone
  for _ in range(2):
    page.write_section(tmp_path / "docs" / "results.md", "tiny", "Tiny", text)
  page.write_section(tmp_path / "docs" / "results.md", "other", "Other", "nothing")
  written = (tmp_path / "docs" / "results.md").read_text()
  assert written.count(text) == 1 and written.count("## ") == 2 and "67.5%" in written
  curves.save_comparison(tmp_path / "curves.png", results, TARGETS)
  assert (tmp_path / "curves.png").stat().st_size > 5000


def test_intervals_are_students():
  values = np.random.default_rng(0).normal(size=5)
  mean, half = intervals.interval(values)
  low, high = stats.t.interval(0.95, 4, loc=values.mean(), scale=stats.sem(values))
  np.testing.assert_allclose([mean - half, mean + half], [low, high], rtol=1e-3)
  assert intervals.interval([2.0])[0] == 2.0 and math.isnan(intervals.interval([2.0])[1])


def test_a_cell_of_a_table_has_its_interval_where_there_is_one():
  nan = math.nan
  assert [page._plain(one, 2) for one in ((1234.567, 0.05), (1.234, nan), (nan, nan))] == ["1,234.57 ± 0.05", "1.23", ""]
  assert [page._points(one) for one in ((0.0123, 0.004), (-0.01, nan), (nan, nan))] == ["+1.23 ± 0.40", "-1.00", ""]


def test_targets_count_the_first_point_that_reaches_them():
  curve = [{"step": s, "linear_accuracy": a} for s, a in ((1, 0.5), (2, 0.9), (3, 0.8), (4, 0.95))]
  assert intervals.first_reaching(curve, "linear_accuracy", 0.9)["step"] == 2
  assert intervals.first_reaching(curve, "linear_accuracy", 0.99) is None


def test_time_is_compared_with_random_batches_seed_by_seed():
  def run(rule, seed, *points):
    keys = ("step", "examples", "seconds", "processor_seconds")
    curve = [{**dict.fromkeys(keys, busy), **dict.fromkeys(FIGURES, score)} for busy, score in points]
    return {"rule": rule, "seed": seed, "curve": curve}

  runs = [run("random", 0, (10, 0.1), (20, 0.6)), run("random", 1, (10, 0.6), (40, 0.7)), run("random", 2, (9, 0.1)),
          run("hard", 0, (6, 0.5), (30, 0.6)), run("hard", 1, (9, 0.1), (20, 0.9)), run("hard", 2, (9, 0.9))]
  row = intervals.summarize(runs, TARGETS)["hard"]
  np.testing.assert_allclose(row["processor_ratio"], intervals.interval([1.5, 0.5, 1.0]))
  # Seed 2 of random batches never gets there, so that it has no ratio.
  assert row["linear_accuracy_target"]["reached"] == 3
  np.testing.assert_allclose(row["linear_accuracy_target"]["processor_ratio"], intervals.interval([6 / 20, 20 / 10]))


def test_runs_of_before_processor_time_was_kept_are_shown_without(compared, tmp_path):
  results, _ = compared
  old = [{**r, "curve": [{k: v for k, v in p.items() if k != "processor_seconds"} for p in r["curve"]]} for r in results]
  summary = intervals.summarize(old, TARGETS)
  about = dict.fromkeys(("command", "date", "hardware", "setting", "seeds"), "") | {"pictures": []}
  text = page.section({"about": about, "targets": TARGETS, "summary": summary})
  assert "nan" not in text and math.isnan(summary["random"]["processor_ratio"][0])
  with warnings.catch_warnings(action="error"):
    curves.save_comparison(tmp_path / "curves.png", old, TARGETS, "processor_seconds")


def test_a_run_begun_before_processor_time_was_kept_is_read_without(tmp_path):
  records = [{"step": 5, "trained_seconds": 1.0, "knn_accuracy": 0.5},
             {"step": 10, "trained_seconds": 2.0, "trained_processor_seconds": 0.7, "knn_accuracy": 0.6}]
  (tmp_path / "metrics.jsonl").write_text("".join(json.dumps(r) + "\n" for r in records))
  assert cases._read(tmp_path, 4)["curve"] == [
      {"step": 5, "examples": 20, "seconds": 1.0, "knn_accuracy": 0.5},
      {"step": 10, "examples": 40, "seconds": 2.0, "knn_accuracy": 0.6}]


def test_a_rule_without_a_coverage_chooses_from_all():
  config = tiny()
  assert selection_rules.with_rule(config, "pool_p1", 4).selection.policy == "P1"
  assert selection_rules.with_rule(config, "hard", 4).selection.coverage == "independent"
  assert selection_rules.with_rule(config, "greedy_min_oversampled", 4).selection.objective == "min"
  assert selection_rules.with_rule(config, "greedy_min_oversampled", 4).selection.coverage == "oversampled"
  assert config.selection.rule == "random" and selection_rules.with_rule(config, "random", 4).seed == 4
  with pytest.raises(ValueError, match="'gredy_balanced' is not known. Did you mean 'greedy_balanced'"):
    selection_rules.with_rule(config, "gredy_balanced", 0)


def test_seeds_are_checked():
  assert compare.seeds_of(["0", "3"]) == [0, 3]
  for words in (["0", "x"], ["1", "1"], ["-1"], []):
    with pytest.raises(ValueError, match="--seeds must"):
      compare.seeds_of(words)
