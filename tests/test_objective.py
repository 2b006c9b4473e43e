"""Objectives that own parameters or remember examples: the sigmoid loss and the global objective, in real tiny runs."""

import jax
import jax.numpy as jnp
import ml_collections
import numpy as np
import pytest

from spectral_jax import losses
from spectral_jax._errors import ConfigError
from spectral_jax.config import load_config
from spectral_jax.data import open_dataset
from spectral_jax.mesh import make_mesh
from spectral_jax.training import loop, objective
from spectral_jax.training.batches.tables import epoch_indices
from spectral_jax.training.checks import check_config
from spectral_jax.training.objective import learned_values, make_objective, temperature_of
from spectral_jax.training.run import prepare
from spectral_jax.workdir import checkpoints
from spectral_jax.workdir.logs import read_metrics

BATCH = 240


def config_of(name, *, steps=3, **kwargs):
  config = load_config("digits")
  config.update_from_flattened_dict({
      "batch_size": BATCH, "steps": steps, "log_every": 1, "diagnostics_every": 0, "eval_every_epochs": 0,
      "checkpoint.every_steps": 4, "optimizer.name": "sgd", "optimizer.learning_rate": 0.02,
      "optimizer.warmup_epochs": 0,
      "model.width": 0.125, "model.projector_hidden": 8, "model.projector_dim": 8, "eval.knn_limit": 200,
      "eval.test_limit": 50, "loss.name": name, "loss.temperature": None, "loss.kwargs": kwargs})
  return config


@pytest.fixture(scope="module")
def digits():
  return open_dataset(config_of("nt_xent").data)


def mesh(devices=1):
  return make_mesh(devices=jax.devices()[:devices])


def trained(run, table):
  """The states after each of some steps, and the losses."""
  state, states, values = run.init(), [], []
  for batch in run.feed(table, 0):
    state, metrics = run.step(state, batch)
    states.append(jax.device_get(state))
    values.append(float(metrics["loss"]))
  return states, values


def close(a, b, **tolerance):
  for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True):
    np.testing.assert_allclose(x, y, **tolerance)


def test_the_sigmoid_loss_owns_its_temperature_and_bias():
  config = ml_collections.ConfigDict({"name": "sigmoid", "temperature": 0.2, "kwargs": {"bias": -4.0}})
  own = make_objective(config)
  params, memory = own.init(jax.random.key(0), 4, 100)
  assert params == {"log_factor": 0.0, "bias": -4.0} and memory == {}
  u, v = jax.random.normal(jax.random.key(1), (2, 6, 4))
  moved = {"log_factor": jnp.log(2.0), "bias": jnp.float32(-3.0)}
  of = lambda params: own.loss(params, {}, (u, v), {}, temperature_of(config))[0]
  value, slope = jax.value_and_grad(of)(moved)
  assert learned_values(moved, 0.2) == {"temperature": pytest.approx(0.4), "bias": -3.0}
  np.testing.assert_allclose(value, losses.sigmoid(u, v, temperature=0.4, bias=-3.0), rtol=1e-6)
  for name, h in (("log_factor", 1e-2), ("bias", 1e-2)):  # central differences, of float32
    up, down = ({**moved, name: moved[name] + sign * h} for sign in (1, -1))
    np.testing.assert_allclose(slope[name], (of(up) - of(down)) / (2 * h), rtol=2e-3)
  config.kwargs.learn = ("bias",)
  assert make_objective(config).init(jax.random.key(0), 4, 100)[0] == {"bias": -4.0}
  config.kwargs.learn = ()
  fixed = make_objective(config)
  assert fixed.init(jax.random.key(0), 4, 100) == ({}, {})
  np.testing.assert_allclose(fixed.loss({}, {}, (u, v), {}, 0.2)[0], losses.sigmoid(u, v, temperature=0.2, bias=-4.0),
                             rtol=1e-6)


def test_a_run_learns_temperature_and_bias_and_reports_them(digits, tmp_path):
  config = config_of("sigmoid", steps=5)
  config.diagnostics_every = 2
  run = prepare(config, digits, mesh())
  state, _ = loop.train(run, tmp_path)
  lines = [r for r in read_metrics(tmp_path) if "bias" in r]
  assert [r["step"] for r in lines] == [1, 2, 3, 4, 5]
  assert lines[0]["temperature"] == pytest.approx(0.1) and lines[0]["bias"] == -10.0
  assert lines[-1]["temperature"] != lines[0]["temperature"] and lines[-1]["bias"] != -10.0
  owned = jax.device_get(state.learners["main"].params["objective"])
  assert owned["bias"] != 0 and np.isfinite(owned["log_factor"])


@pytest.mark.parametrize("name, kwargs", [("sigmoid", {}), ("global_contrastive", {"gamma": 0.5})])
def test_four_devices_and_a_ring_make_the_steps_of_one(name, kwargs, digits, monkeypatch):
  table = epoch_indices(0, 0, digits.train.size, BATCH)[[0, 1, 0]]  # the third step meets what the first remembered
  one, values = trained(prepare(config_of(name, **kwargs), digits, mesh()), table)
  monkeypatch.setattr(objective, "RING_IMAGES", 1)
  many, others = trained(prepare(config_of(name, **kwargs), digits, mesh(4)), table)
  np.testing.assert_allclose(values, others, rtol=1e-4)
  close(one[-1].learners, many[-1].learners, rtol=2e-3, atol=2e-5)


def test_with_gamma_1_the_global_objective_is_dcl_step_for_step(digits):
  """Its loss is dcl less log(2n - 2); the gradients are the same, so the parameters stay together."""
  table = epoch_indices(0, 0, digits.train.size, BATCH)[[0, 1, 2, 0]]
  whole, values = trained(prepare(config_of("global_contrastive", gamma=1.0), digits, mesh()), table)
  config = config_of("dcl")
  config.loss.temperature = 0.1
  batch, expected = trained(prepare(config, digits, mesh()), table)
  np.testing.assert_allclose(np.add(values, np.log(2 * BATCH - 2)), expected, rtol=1e-5)
  for a, b in zip(whole, batch):
    close(a.learners["main"].params, b.learners["main"].params, rtol=1e-3, atol=1e-5)


def test_the_memory_is_of_the_examples_seen_and_survives_a_stop(digits, tmp_path):
  """A stop at any step changes no bit, of parameters or memory; after an epoch all but the leftover are remembered."""
  run = prepare(config_of("global_contrastive", steps=9, gamma=0.5), digits, mesh())
  whole, _ = loop.train(run, tmp_path / "whole")
  calls = iter(range(6))  # it goes on from step 4

  def stops(*arguments):
    if next(calls, None) is None:
      raise KeyboardInterrupt
    return run.program.step(*arguments)

  with pytest.raises(KeyboardInterrupt):
    loop.train(run._replace(program=run.program._replace(step=stops)), tmp_path / "stopped")
  state, _ = loop.train(run, tmp_path / "stopped")
  assert int(checkpoints.fingerprint(state)) == int(checkpoints.fingerprint(whole))
  memory = np.asarray(state.learners["main"].memory["log_average"])
  assert memory.shape == (1437, 2)
  seen = np.zeros(1437, bool)
  for epoch in (0, 1):
    seen[epoch_indices(0, epoch, 1437, BATCH)[:9 - 5 * epoch]] = True
  assert (np.isfinite(memory).all(1) == seen).all() and (memory[~seen] == -np.inf).all()


@pytest.mark.parametrize("name, kwargs, temperature, message", [
    ("sigmoid", {"learn": ("prior",)}, None, "learn=.*'prior'.*sigmoid learns 'temperature' and 'bias'"),
    ("sigmoid", {"learn": 1}, None, "learn=1, but sigmoid learns"),
    ("sigmoid", {"bias": "large"}, None, "does not fit sigmoid"),
    ("nt_xent", {"learn": ("temperature",)}, None, "'learn', which nt_xent does not take"),
    ("global_contrastive", {"log_average": 0.0}, None, "'log_average', which global_contrastive does not take"),
    ("global_contrastive", {"gamma": 0.0}, None, "gamma must be a positive"),
    ("global_contrastive", {"gamma": 1.5}, None, r"gamma must lie in \(0, 1\]"),
    ("debiased", {"prior": 1.0}, None, "prior must be a finite number"),
    ("spectral_contrastive", {}, 0.5, "spectral_contrastive has no temperature")])
def test_what_no_run_could_use_is_refused(name, kwargs, temperature, message):
  config = config_of(name, **kwargs)
  config.loss.temperature = temperature
  with pytest.raises(ConfigError, match=message):
    check_config(config)
