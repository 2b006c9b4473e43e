"""Several learners under shared randomness: what they share, what tells them apart, and that a kill changes nothing."""

import dataclasses
import json
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from spectral_jax import job, losses, metrics
from spectral_jax._errors import ConfigError
from spectral_jax.config import load_config
from spectral_jax.data import open_dataset
from spectral_jax.defaults import learner, learners
from spectral_jax.evaluation.alignment import pair_metrics, similarity_metrics
from spectral_jax.mesh import make_mesh
from spectral_jax.reports import pairs
from spectral_jax.training import diagnostics, loop
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
  learners = {"cl": learner("dcl"), "sup": learner("supcon", temperature=0.8)}
  many = trained(config_of(learners), digits, one, tmp_path / "many")
  alone = trained(config_of({}, **{"loss.name": "supcon", "loss.temperature": 0.8}), digits, one, tmp_path / "alone")
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


@pytest.fixture(scope="module")
def job_done(one_device_jobs, tmp_path_factory):
  folder = tmp_path_factory.mktemp("job")
  config = config_of({"cl": learner("dcl"), "nscl": learner("nscl")}, steps=8, main_learner="cl")
  return job.main_job(config, folder), read_metrics(folder), folder


def test_a_coupled_job_reports_every_learner(job_done):
  summary, records, folder = job_done
  assert set(summary["learners"]) == {"cl", "nscl"}
  assert summary["knn_accuracy"] == summary["learners"]["cl"]["knn_accuracy"]
  assert json.loads((folder / "summary.json").read_text()) == summary
  assert {"cl/loss", "nscl/loss", "cl/effective_rank"} <= {key for r in records for key in r}
  assert all((folder / name).stat().st_size > 5000 for name in ("alignment.png", "pairs.png"))


def test_a_coupled_job_reports_every_pair_beside_its_bounds(job_done, capsys):
  summary, records, _ = job_done
  [last] = [r for r in records if "cl~nscl/weight_gap" in r]
  assert set(summary["pairs"]) == {"cl~nscl"}
  assert all(of_pair[key] == last[f"{pair}/{key}"] for pair, of_pair in summary["pairs"].items() for key in of_pair)
  assert all(0 <= of_pair["test_encoder_cka"] <= 1 + 1e-6 for of_pair in summary["pairs"].values())
  said = summary["bounds"]
  # The drift's theorem is about CL and NSCL; what a distance proves of CKA and RSA holds of any two.
  assert {name for name in said if "drift" in name} == {"cl~nscl/similarity_drift"}
  assert {name.split("/")[0] for name in said if "cka" in name} == set(summary["pairs"])
  for name, row in said.items():
    if name.endswith(("cka", "rsa")):
      assert row["measured"] >= row["bound"] - 1e-4 and not row["exceeded"] and row["vacuous"] == (row["bound"] <= 0)
  pairs.print_table(summary)
  assert "cl~nscl/similarity_drift: " in capsys.readouterr().out


def test_the_loss_gap_lies_within_its_bound_at_every_step(digits, one):
  config = config_of({"cl": learner("dcl"), "nscl": learner("nscl")}, **{"steps": 60, "optimizer.learning_rate": 0.03})
  run = prepare(config, digits, one)
  state, gaps = run.init(), []
  for batch in run.feed(np.concatenate([run.plan.random_table(epoch) for epoch in range(3)])[:60], 0):
    gaps.append(diagnostics.loss_gaps(run, state))
    state, _ = run.step(state, batch)
  for name in ("cl", "nscl"):
    assert all(0 <= gap[f"{name}/loss_gap"] <= gap[f"{name}/loss_gap_bound"] for gap in gaps)
  # The gap grows where labels are used: images of a class come together.
  assert gaps[-1]["nscl/loss_gap"] > gaps[0]["nscl/loss_gap"] > 0


def test_the_loss_gap_is_of_a_batch_as_training_draws_them(digits, one):
  by_class = dataclasses.replace(digits.train, labels=np.arange(digits.train.size, dtype=np.int32) // 8)
  config = config_of({"cl": learner("dcl"), "nscl": learner("nscl")})
  run = prepare(config, dataclasses.replace(digits, train=by_class), one)
  assert diagnostics.loss_gaps(run, run.init())["nscl/loss_gap"] > 0


@pytest.mark.parametrize("temperature", [0.01, 0.1, 1.0])
def test_the_loss_gap_is_the_losses_difference(temperature):
  u, v = jax.random.normal(jax.random.key(0), (2, 24, 6))
  u, v = u.at[3].set(u[2]), v.at[3].set(u[2])
  labels = jnp.array([0] * 10 + [1] * 13 + [2])
  gap = diagnostics.loss_gap(u, v, labels, temperature=temperature)
  expected = losses.dcl(u, v, temperature=temperature) - losses.nscl(u, v, labels, temperature=temperature)
  np.testing.assert_allclose(gap["loss_gap"], expected, rtol=1e-4, atol=1e-5)
  assert 0 <= gap["loss_gap"] <= gap["loss_gap_bound"]
  one = diagnostics.loss_gap(u, v, jnp.zeros(24, int), temperature=temperature)
  assert float(one["loss_gap"]) == float(one["loss_gap_bound"]) == 0


@pytest.mark.parametrize("limit, count", [("test_limit", 1), ("test_limit", 3), ("train_limit", 2), ("knn_limit", 3)])
def test_too_few_images_to_compare_learners_on_are_refused_before_training(limit, count, digits, one):
  config = config_of({"a": learner("dcl"), "b": learner("nscl")}, **{f"eval.{limit}": count, "eval.knn_k": 1})
  with pytest.raises(ConfigError, match=f"config.eval.{limit}={count} leaves {count} of the .* at least 4, of 2 classes"):
    prepare(config, digits, one)
  for alone in (learners(), learners(a=learner("dcl"))):
    config.learners = alone
    prepare(config, digits, one)  # what nobody is compared on may be few


def test_few_images_have_fewer_neighbors():
  z = jax.random.normal(jax.random.key(0), (5, 3))
  found = pair_metrics(z, 2 * z)
  assert {key: round(float(value), 4) for key, value in found.items()} == dict.fromkeys(found, 1.0)


def test_similarities_are_compared_as_a_slow_loop_does():
  random = np.random.default_rng(0)
  a, b = random.normal(size=(30, 5)), random.normal(size=(30, 7))
  found = similarity_metrics(jnp.asarray(a, jnp.float32), jnp.asarray(b, jnp.float32))
  cosine = lambda z, i, j: z[i] @ z[j] / np.sqrt(z[i] @ z[i] * (z[j] @ z[j]))
  square = sum((cosine(a, i, j) - cosine(b, i, j)) ** 2 for i in range(30) for j in range(30))
  assert float(found["similarity_drift"]) == pytest.approx(square ** 0.5, rel=1e-5)
  assert found["similarity_drift"] <= found["similarity_drift_largest"] == pytest.approx(2 * (30 * 29) ** 0.5)
  for name in ("similarity_cka", "similarity_rsa"):
    assert found[name] >= found[f"{name}_bound"]


def test_bounds_that_say_nothing_are_called_vacuous():
  of_pair = {"similarity_drift": 5.0, "similarity_drift_largest": 10.0, "similarity_cka": 0.9,
             "similarity_cka_bound": -0.1, "similarity_rsa": 0.9, "similarity_rsa_bound": 0.8}
  rows = lambda bound: pairs.of_bounds({"a~b": {**of_pair, "similarity_drift_bound": bound}}, [
      {"a/loss_gap": 0.2, "a/loss_gap_bound": 0.3}, {"step": 2}])
  said = rows(math.inf)
  assert [said[f"a~b/similarity_{name}"]["vacuous"] for name in ("drift", "cka", "rsa")] == [True, True, False]
  assert said["a/loss_gap"] == {"measured": 0.2, "bound": 0.3, "vacuous": False, "exceeded": False}
  assert [rows(bound)["a~b/similarity_drift"]["vacuous"] for bound in (10.0, 9.0, 4.0)] == [True, False, False]
  assert [rows(bound)["a~b/similarity_drift"]["exceeded"] for bound in (10.0, 9.0, 4.0)] == [False, False, True]


def test_the_drift_theorem_is_evaluated_at_the_steps_taken(digits, one):
  run = prepare(config_of({"cl": learner("dcl"), "nscl": learner("nscl"), "sup": learner("supcon")}, **{
      "optimizer.warmup_epochs": 0}), digits, one)
  peak, total = 0.1 * 64 / 256 if run.config.optimizer.name == "sgd" else 3e-3 * 64 / 256, run.total_steps
  counts = np.bincount(digits.train.labels)
  found = diagnostics.drift_bounds(run, 5)
  eta = sum(peak * (1 + math.cos(math.pi * t / total)) / 2 for t in range(5))
  tau, b, share = 0.5, 64, counts.max() / counts.sum() + math.sqrt(math.log(total * 64 / 0.05) / (2 * 64))
  expected = math.exp(eta / (2 * tau**2 * b)) * eta / (tau * math.sqrt(b)) * 2 * math.exp(2 / tau) * share / (1 - share)
  assert set(found) == {"cl~nscl/similarity_drift_bound"}
  assert found["cl~nscl/similarity_drift_bound"] == pytest.approx(expected, rel=1e-4)


def test_the_coupled_configs_take_the_learners_they_are_given():
  config = load_config("coupled_cifar10:nscl,cl")
  assert set(config.learners) == {"cl", "nscl"} and config.main_learner == "nscl" and config.data.name == "cifar10"
  with pytest.raises(ValueError, match="no learner 'nslc'. Did you mean 'nscl'"):
    load_config("coupled_digits:nslc")


def test_learners_begin_as_one(digits, one):
  state = prepare(config_of({"a": learner("dcl"), "b": learner("cross_entropy")}), digits, one).init()
  for x, y in zip(leaves(state.learners["a"]), leaves(state.learners["b"])):
    np.testing.assert_array_equal(x, y)
  assert float(metrics.weight_gap(state.learners["a"].params["model"], state.learners["b"].params["model"])) == 0
  assert state.learners["a"].params["objective"] == {} and "head" in state.learners["b"].params["objective"]
