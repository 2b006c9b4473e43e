"""Encoding a batch in pieces gives the whole batch's gradient; adding up the pieces' own losses does not."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import linen as nn
from jax.sharding import NamedSharding, PartitionSpec

from spectral_jax import losses
from spectral_jax.mesh import make_mesh
from spectral_jax.training import microbatch
from spectral_jax.training.objective import Objective
from spectral_jax.training.state import init_state
from spectral_jax.training.step import make_gradient, make_update

PIECES = 4


class Encoder(nn.Module):
  """Small, with or without batch normalization."""

  normalized: bool

  @nn.compact
  def __call__(self, x, train):
    x = nn.Dense(64)(x.reshape(len(x), -1))
    if self.normalized:
      x = nn.BatchNorm(use_running_average=not train)(x)
    x = nn.tanh(x)
    return x, nn.Dense(8)(x)


def objective_of(loss):
  return Objective(lambda key, width, examples: ({}, {}), lambda params, memory, z, batch, tau: (loss(*z), memory))


def nt_xent(u, v):
  return losses.nt_xent(u, v, temperature=0.2)


def updated(normalized, microbatches, views, objective=None):
  model, tx = Encoder(normalized), optax.sgd(1.0)
  objective = objective or objective_of(nt_xent)
  learner = init_state(0, model, {"main": objective}, tx, views.shape[2:]).learners["main"]
  update = jax.jit(make_update(make_gradient(model, objective, lambda u, v: (u, v), microbatches), tx))
  value, updated = update(learner, (views[:, 0], views[:, 1]), {"labels": jnp.zeros(len(views), int)}, 1.0)
  return learner, updated.learner, value, updated.embeddings


@pytest.fixture(scope="module")
def views():
  return jnp.asarray(np.random.default_rng(0).normal(size=(32, 2, 4, 4, 1)), jnp.float32)


def close(a, b, rtol):
  norm = lambda tree: float(optax.tree.norm(tree))
  return norm(jax.tree.map(jnp.subtract, a, b)) <= rtol * norm(b)


def test_pieces_give_the_gradient_of_what_the_objective_owns(views):
  scaled = Objective(lambda key, width, examples: ({"scale": jnp.array(3.0)}, {}),
                     lambda params, memory, z, batch, tau: (losses.nt_xent(*z, temperature=1 / params["scale"]), memory))
  start, whole, *_ = updated(False, 1, views, scaled)
  _, pieces, *_ = updated(False, PIECES, views, scaled)
  of = lambda learner: float(learner.params["objective"]["scale"])
  assert of(whole) != of(start) and of(pieces) == pytest.approx(of(whole), rel=1e-5)


def test_pieces_give_the_gradient_of_the_whole_batch(views):
  start, whole, loss, embeddings = updated(False, 1, views)
  _, pieces, pieces_loss, pieces_embeddings = updated(False, PIECES, views)
  assert float(pieces_loss) == pytest.approx(float(loss), rel=1e-6)
  np.testing.assert_allclose(pieces_embeddings[0], embeddings[0], rtol=1e-5, atol=1e-6)
  step = lambda new: jax.tree.map(jnp.subtract, new.params, start.params)
  assert close(step(pieces), step(whole), 1e-5)

  # What accumulation would do: the mean of the small batches' gradients, each with its own few negatives.
  small = [step(updated(False, 1, part)[1]) for part in microbatch.cut(views, PIECES)]
  accumulated = jax.tree.map(lambda *x: sum(x) / PIECES, *small)
  assert not close(accumulated, step(whole), 0.1)


def test_batch_statistics_are_those_of_each_piece(views):
  model = Encoder(True)
  state, pieces, found, _ = updated(True, PIECES, views)

  def whole_graph(params):
    """The same pieces, each normalized by itself, in one graph."""
    stats, projected = state.batch_stats, []
    for part in microbatch.cut(views, PIECES):
      (_, z), changed = model.apply(
          {"params": params["model"], "batch_stats": stats}, part.reshape(-1, 4, 4, 1), train=True,
          mutable=["batch_stats"])
      stats = changed["batch_stats"]
      projected.append(z.reshape(-1, 2, 8))
    z = microbatch.join(jnp.stack(projected))
    return nt_xent(z[:, 0], z[:, 1]), stats

  (loss, stats), gradient = jax.jit(jax.value_and_grad(whole_graph, has_aux=True))(state.params)
  assert float(found) == pytest.approx(float(loss), rel=1e-6)
  assert close(jax.tree.map(jnp.subtract, state.params, pieces.params), gradient, 1e-4)
  jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6), pieces.batch_stats, stats)


def test_rows_stay_on_their_devices(views):
  mesh = make_mesh(devices=jax.devices()[:4])
  sharded = jax.device_put(views, NamedSharding(mesh, PartitionSpec("data")))
  _, whole, _, _ = updated(False, PIECES, views)
  _, pieces, _, _ = updated(False, PIECES, sharded)
  jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6), pieces.params, whole.params)
  cut = jax.jit(lambda x: microbatch.cut(x, PIECES)).lower(sharded).compile()
  assert "all-gather" not in cut.as_text() and "all-to-all" not in cut.as_text()


def test_activations_are_those_of_a_piece():
  views = jax.ShapeDtypeStruct((1024, 4, 4, 1), jnp.float32)
  tx = optax.sgd(1.0)

  class Deep(nn.Module):
    @nn.compact
    def __call__(self, x, train):
      x = x.reshape(len(x), -1)
      for _ in range(12):
        x = nn.tanh(nn.Dense(128)(x))
      return x, nn.Dense(8)(x)

  def small_loss(u, v):  # in small tiles, so that the memory is the activations'
    return losses.nt_xent(u, v, tile_size=64)

  def temporaries(microbatches):
    objective = objective_of(small_loss)
    update = make_update(make_gradient(Deep(), objective, lambda u, v: (u, v), microbatches), tx)
    state = jax.eval_shape(lambda: init_state(0, Deep(), {"main": objective}, tx, (4, 4, 1)))
    labels = jax.ShapeDtypeStruct((1024,), jnp.int32)
    return jax.jit(update).lower(state.learners["main"], (views, views), {"labels": labels},
                                 1.0).compile().memory_analysis().temp_size_in_bytes

  assert temporaries(16) < temporaries(1) / 4
