"""One step: the same on one device and on eight; labels, whitening and diagnostics where the config asks for them."""

import functools

import jax
import jax.numpy as jnp
import ml_collections
import numpy as np
import optax
import pytest

from spectral_jax import losses, spectrum
from spectral_jax.config import load_config
from spectral_jax.data import open_dataset
from spectral_jax.mesh import make_mesh, over_data
from spectral_jax.training import objective
from spectral_jax.training.batches.tables import epoch_indices
from spectral_jax.training.objective import loss_names, make_objective, make_whitening, objective_names, temperature_of
from spectral_jax.training.run import prepare
from spectral_jax.training.state import Learner, State
from spectral_jax.training.step import Hyper, make_gradient, make_update, step_of_all


def config_of(**changes):
  config = load_config("digits")
  config.update_from_flattened_dict({
      "batch_size": 32, "model.width": 0.25, "model.projector_hidden": 16, "model.projector_dim": 8,
      "optimizer.name": "sgd", "optimizer.learning_rate": 0.1, "optimizer.warmup_epochs": 0, **changes})
  return config


@functools.cache
def digits():
  return open_dataset(config_of().data)


def steps(config, mesh, observed=False):
  """Two steps; returns the state and the last metrics on the host."""
  run = prepare(config, digits(), mesh)
  state = run.init()
  table = epoch_indices(0, 0, digits().train.size, config.batch_size)[:2]
  for batch in run.feed(table, 0):
    state, metrics = run.step(state, batch, observed)
  return jax.device_get(state), jax.device_get(metrics)


@pytest.mark.parametrize("changes, model_parallel, ring", [
    ({}, 2, False), ({"loss.name": "supcon", "whitening.method": "cholesky"}, 1, True)],
    ids=["wide projector", "labels, whitened, ring"])
def test_eight_devices_make_the_step_of_one(changes, model_parallel, ring, monkeypatch):
  config = config_of(**changes)
  monkeypatch.setattr(objective, "RING_IMAGES", 1 if ring else config.batch_size)
  one, metrics = steps(config, make_mesh(devices=jax.devices()[:1]))
  many, others = steps(config, make_mesh(model_parallel, jax.devices()[:8]))
  assert metrics["loss"] == pytest.approx(others["loss"], rel=1e-4)
  for a, b in zip(jax.tree.leaves(one), jax.tree.leaves(many)):
    np.testing.assert_allclose(a, b, rtol=1e-3, atol=2e-5)


def test_whoever_looks_at_a_step_changes_no_bit_of_it():
  mesh = make_mesh(devices=jax.devices()[:1])
  (unseen, few), (seen, more) = (steps(config_of(), mesh, observed) for observed in (False, True))
  assert few.keys() < more.keys() and more["band_lower"] <= more["band_value"] <= more["band_upper"]
  for a, b in zip(jax.tree.leaves((unseen, few)), jax.tree.leaves((seen, {key: more[key] for key in few}))):
    np.testing.assert_array_equal(a, b)


def test_a_step_is_a_function_of_seed_step_and_examples():
  mesh = make_mesh(devices=jax.devices()[:1])
  first, _ = steps(config_of(), mesh)
  again, _ = steps(config_of(), mesh)
  other, _ = steps(config_of(seed=1), mesh)
  equal = lambda a, b: all((x == y).all() for x,
                           y in zip(*(jax.tree.leaves(s.learners["main"].params) for s in (a, b))))
  assert equal(first, again) and not equal(first, other)


def test_the_views_of_an_image_are_others_at_the_next_step():
  run = prepare(config_of(), digits(), make_mesh(devices=jax.devices()[:1]))
  [batch] = run.feed(epoch_indices(0, 0, digits().train.size, 32)[:1], 0)
  now = run.init()
  one, again, later = (run.views(state, batch)[0] for state in (now, now, now._replace(step=now.step + 1)))
  np.testing.assert_array_equal(one, again)
  assert (np.asarray(one) != np.asarray(later)).reshape(32, -1).any(axis=1).all()


def test_update_differentiates_the_loss_of_the_embeddings():
  """A linear model small enough to write down: the update is gradient descent on the named loss."""

  class Linear:
    def apply(self, variables, x, train, mutable):
      z = x.reshape(len(x), -1) @ variables["params"]["w"]
      return (z, z), {}

  random = np.random.default_rng(0)
  with jax.enable_x64(True):
    w, views = jnp.asarray(random.normal(size=(4, 3))), jnp.asarray(random.normal(size=(6, 2, 2, 2, 1)))
    tx = optax.sgd(0.1)
    params = {"model": {"w": w}, "objective": {}}
    learner, loss = Learner(params, {}, tx.init(params)), config_of().loss
    update = make_update(make_gradient(Linear(), make_objective(loss), make_whitening(config_of().whitening)), tx)
    measured, updated = update(learner, (views[:, 0], views[:, 1]), {"labels": jnp.zeros(6, int)}, loss.temperature)
    rows = views.reshape(6, 2, 4)
    by_hand = lambda w: losses.nt_xent(rows[:, 0] @ w, rows[:, 1] @ w, temperature=loss.temperature)
    value, gradient = jax.value_and_grad(by_hand)(w)
    np.testing.assert_allclose(measured, value, rtol=1e-12)
    np.testing.assert_allclose(updated.learner.params["model"]["w"], w - 0.1 * gradient, rtol=1e-12)
    np.testing.assert_allclose(updated.updates["model"]["w"], -0.1 * gradient, rtol=1e-12)
    np.testing.assert_allclose(updated.embeddings[1], rows[:, 1] @ w, rtol=1e-12)


def test_the_loss_is_of_the_whitened_embeddings():
  with jax.enable_x64(True):
    random = np.random.default_rng(0)
    u, v = (jnp.asarray(random.normal(size=(12, 3)) * [3.0, 1.0, 0.2]) for _ in range(2))

    class Given:
      def apply(self, variables, x, train, mutable):
        return (x, x), {}

    loss = config_of().loss
    whitening = config_of(**{"whitening.method": "zca", "whitening.shrinkage": 0.1}).whitening
    gradient = make_gradient(Given(), make_objective(loss), make_whitening(whitening))
    value, *_ = gradient(Learner({"model": {}, "objective": {}}, {}, ()), (u, v), {"labels": jnp.zeros(12, int)},
                         loss.temperature)
    both = spectrum.whiten(jnp.concatenate([u, v]), method="zca", shrinkage=0.1)
    np.testing.assert_allclose(value, losses.nt_xent(both[:12], both[12:], temperature=loss.temperature), rtol=1e-12)


@pytest.mark.parametrize("name", [
    "dcl", "debiased", "dhel", "hard_negative", "info_nce", "kcl", "nscl", "nt_xent", "sigmoid", "spectral_contrastive",
    "supcon"])
def test_every_loss_is_found_by_its_name(name):
  assert name in loss_names()
  u, v = jax.random.normal(jax.random.key(0), (2, 8, 4))
  labels = jnp.arange(8) % 3
  function = getattr(losses, name)
  expected = function(u, v, labels) if name in ("nscl", "supcon") else function(u, v)
  config = ml_collections.ConfigDict({"name": name, "temperature": None, "kwargs": {}})
  np.testing.assert_allclose(value_of(config, u, v, labels), expected, rtol=1e-6)


def value_of(config, u, v, labels=None):
  """The objective's value, at the loss's temperature."""
  return make_objective(config).loss({}, {}, (u, v), {"labels": labels}, temperature_of(config))[0]


def test_cross_entropy_has_a_head_of_its_own():
  config = ml_collections.ConfigDict({"name": "cross_entropy", "temperature": None, "kwargs": {}})
  assert "cross_entropy" in objective_names()
  objective, labels = make_objective(config, num_classes=3), jnp.arange(8) % 3
  params, memory = objective.init(jax.random.key(1), 4, 100)
  u, v = jax.random.normal(jax.random.key(0), (2, 8, 4))
  by_hand = []
  for z in (np.asarray(u, np.float64), np.asarray(v, np.float64)):
    logits = z @ np.asarray(params["head"]["kernel"], np.float64)
    by_hand += [np.log(np.exp(row).sum()) - row[y] for row, y in zip(logits, np.asarray(labels))]
  np.testing.assert_allclose(objective.loss(params, memory, (u, v), {"labels": labels}, None)[0], np.mean(by_hand),
                             rtol=1e-5)


def test_kernels_are_written_as_in_python():
  u, v = jax.random.normal(jax.random.key(0), (2, 8, 4))
  keywords = {"kernel": "imq(0.5)", "gamma": 4.0}
  config = ml_collections.ConfigDict({"name": "kcl", "temperature": None, "kwargs": keywords})
  expected = losses.kcl(u, v, kernel=losses.kernels.imq(0.5), gamma=4.0)
  np.testing.assert_allclose(value_of(config, u, v), expected, rtol=1e-6)
  config.kwargs.kernel = "gausian(2.0)"
  with pytest.raises(ValueError, match="Did you mean 'gaussian'"):
    make_objective(config)


def test_whitening_uses_both_views():
  u, v = jax.random.normal(jax.random.key(0), (2, 50, 4)) * jnp.array([1.0, 2, 3, 4])
  whitened = make_whitening(ml_collections.ConfigDict({"method": "zca", "shrinkage": 1e-3}))(u, v)
  both = spectrum.whiten(jnp.concatenate([u, v]), method="zca", shrinkage=1e-3)
  np.testing.assert_allclose(jnp.concatenate(whitened), both, rtol=1e-5)


def test_temperature_of_the_diagnostics_is_the_losss():
  config = ml_collections.ConfigDict({"name": "nt_xent", "temperature": None, "kwargs": {}})
  assert temperature_of(config) == 0.5
  config.temperature = 0.2
  assert temperature_of(config) == 0.2
  config.update(name="kcl", temperature=None)
  assert temperature_of(config) == 0.1


def test_an_observed_step_is_looked_at_with_the_temperature_that_it_had():
  asked = []

  def look(u, v, temperature):
    asked.append((u, v, temperature))
    return {"rank": 1.0}

  of = lambda name, learned: lambda learner, count, *_: (learner, count + 1, {"loss": 0.0, **learned}, (name, name))
  step = step_of_all({"fixed": of("a", {}), "learns": of("b", {"temperature": 0.3})}, look)
  hyper = Hyper({"fixed": 0.1, "learns": 0.2}, 1.0, 1.0, 1.0)
  for observed in (False, True):
    state, metrics = step(State(4, None, {"fixed": 0, "learns": 0}), None, None, None, hyper, observed)
    assert state.step == 5 and ("learns/rank" in metrics) == observed
  assert asked == [("a", "a", 0.1), ("b", "b", 0.3)]


def test_feed_keeps_the_order_and_sends_each_device_its_rows():
  run = prepare(config_of(), digits(), make_mesh(devices=jax.devices()[:4]))
  table = epoch_indices(0, 0, 1437, 32)[:5]
  batches = list(run.feed(table, 0))
  np.testing.assert_array_equal(np.stack([b["index"] for b in batches]), table)
  assert batches[0]["index"].sharding == over_data(run.mesh)


def test_epoch_indices_are_permutations():
  table = epoch_indices(3, 7, 103, 10)
  assert table.shape == (10, 10) and table.dtype == np.int32
  assert len(set(table.ravel())) == 100 and table.max() < 103
  assert (table == epoch_indices(3, 7, 103, 10)).all()
  assert (table != epoch_indices(3, 8, 103, 10)).any() and (table != epoch_indices(4, 7, 103, 10)).any()
