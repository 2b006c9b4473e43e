"""Several learners under shared randomness: what they share, what tells them apart, and that a kill changes nothing."""

import json

import jax
import numpy as np
import pytest

from spectral_jax import job, metrics
from spectral_jax.config import load_config
from spectral_jax.data import open_dataset
from spectral_jax.defaults import learner, learners
from spectral_jax.mesh import make_mesh
from spectral_jax.training import loop
from spectral_jax.training.run import prepare
from spectral_jax.workdir import checkpoints
from spectral_jax.workdir.logs import read_metrics

SETTINGS = {
    "batch_size": 64, "steps": 12, "log_every": 3, "diagnostics_every": 5, "eval_every_epochs": 0,
    "checkpoint.every_steps": 4, "optimizer.warmup_epochs": 0, "model.width": 0.125, "model.projector_hidden": 8,
    "model.projector_dim": 8, "eval.knn_limit": 200, "eval.test_limit": 60, "eval.train_limit": 200,
    "eval.baseline_limit": 200, "eval.shot_draws": 2, "eval.probe_steps": 5, "eval.shot_steps": 5}


def config_of(sections, **changes):
  config = load_config("digits")
  config.update_from_flattened_dict({**SETTINGS, **changes})
  config.learners = learners(**sections)
  return config


@pytest.fixture(scope="module")
def digits():
  return open_dataset(load_config("digits").data)


@pytest.fixture(scope="module")
def one():
  return make_mesh(devices=jax.devices()[:1])


def leaves(learner):
  return [np.asarray(x) for x in jax.tree.leaves((learner.params["model"], learner.batch_stats))]


def trained(config, digits, mesh, folder):
  return loop.train(prepare(config, digits, mesh), folder)[0]


def test_two_copies_of_one_loss_stay_the_same_to_the_last_bit(digits, one, tmp_path):
  state = trained(config_of({"a": learner("dcl"), "b": learner("dcl")}), digits, one, tmp_path)
  for x, y in zip(leaves(state.learners["a"]), leaves(state.learners["b"])):
    np.testing.assert_array_equal(x, y)
  [line] = [r for r in read_metrics(tmp_path) if "a~b/test_encoder_cka" in r]
  for part in ("train", "test"):
    for layer in ("encoder", "projector"):
      assert line[f"a~b/{part}_{layer}_cka"] == pytest.approx(1, abs=1e-6)
      assert line[f"a~b/{part}_{layer}_mutual_knn"] == 1
  assert line["a~b/weight_gap"] == 0


def test_nscl_with_labels_of_their_own_is_dcl(digits, one, tmp_path):
  unique = np.arange(digits.train.size, dtype=np.int32)
  distinct = digits.__class__(digits.name, tuple(map(str, unique)), digits.train.__class__(
      unique, digits.train.image_size, pixels=digits.train.pixels), digits.test)
  run = prepare(config_of({"cl": learner("dcl"), "nscl": learner("nscl")}, **{"eval.shots": 1}), distinct, one)
  state = run.init()
  for batch in run.feed(run.plan.random_table(0)[:10], 0):
    state, found = run.step(state, batch)
    np.testing.assert_allclose(found["cl/loss"], found["nscl/loss"], rtol=1e-5)
  for x, y in zip(leaves(state.learners["cl"]), leaves(state.learners["nscl"])):
    np.testing.assert_allclose(x, y, rtol=2e-3, atol=2e-4)


def test_one_of_several_is_the_run_of_that_loss_alone(digits, one, tmp_path):
  many = trained(config_of({"cl": learner("dcl"), "sup": learner("supcon")}), digits, one, tmp_path / "many")
  alone = trained(config_of({}, **{"loss.name": "supcon"}), digits, one, tmp_path / "alone")
  for x, y in zip(leaves(many.learners["sup"]), leaves(alone.learners["main"])):
    np.testing.assert_array_equal(x, y)


class Stopped(Exception):
  pass


def test_killed_and_resumed_is_uninterrupted(digits, one, tmp_path):
  config = config_of({"cl": learner("dcl"), "ce": learner("cross_entropy")})
  whole = trained(config, digits, one, tmp_path / "whole")
  run, left = prepare(config, digits, one), iter(range(6))

  def stops(*arguments):
    if next(left, None) is None:
      raise Stopped
    return run.program.step(*arguments)

  with pytest.raises(Stopped):
    loop.train(run._replace(program=run.program._replace(step=stops)), tmp_path / "killed")
  state, _ = loop.train(run, tmp_path / "killed")
  assert int(checkpoints.fingerprint(state)) == int(checkpoints.fingerprint(whole))


def test_a_coupled_job_reports_every_learner(tmp_path):
  config = config_of({"cl": learner("dcl"), "ce": learner("cross_entropy")}, steps=8, main_learner="cl")
  summary = job.main_job(config, tmp_path)
  assert set(summary["learners"]) == {"cl", "ce"}
  assert summary["knn_accuracy"] == summary["learners"]["cl"]["knn_accuracy"]
  assert json.loads((tmp_path / "summary.json").read_text()) == summary
  records = read_metrics(tmp_path)
  assert {"cl/loss", "ce/loss", "cl/effective_rank"} <= {key for r in records for key in r}
  assert all(0 <= r["ce~cl/test_encoder_cka"] <= 1 for r in records if "ce~cl/test_encoder_cka" in r)


def test_learners_begin_as_one(digits, one):
  state = prepare(config_of({"a": learner("dcl"), "b": learner("cross_entropy")}), digits, one).init()
  for x, y in zip(leaves(state.learners["a"]), leaves(state.learners["b"])):
    np.testing.assert_array_equal(x, y)
  assert float(metrics.weight_gap(state.learners["a"].params["model"], state.learners["b"].params["model"])) == 0
  assert state.learners["a"].params["objective"] == {} and "head" in state.learners["b"].params["objective"]
