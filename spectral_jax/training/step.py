"""One training step: two views, the model, the loss, the update; jitted once, its state donated.

`update` knows one learner and is given the views. Learners that share their randomness are several calls of it on
the same views inside one jitted step.
"""

import functools

import jax
import jax.numpy as jnp
import optax
from jax import lax

from spectral_jax import augment as augmentation
from spectral_jax.training import microbatch
from spectral_jax.training.mesh import replicated
from spectral_jax.training.state import State, step_key


def make_views(augment):
  """Returns `views(state, batch, images) -> (b, 2, h, w, c)` float32 in [0, 1].

  `batch` holds the examples' `index`; `images` are those of the whole data set (resident), or None where the batch
  brings its own two crops (streaming).
  """

  def views(state, batch, images):
    pixels = images[batch["index"]] if images is not None else batch["images"]
    u, v = augmentation.two_views(augment, step_key(state), batch["index"], pixels)
    # Stacked beside each other, not one after the other: a device keeps both views of its own examples.
    return jnp.stack([u, v], axis=1)

  return views


def make_update(model, tx, schedule, objective, whiten, microbatches=1):
  """Returns `update(state, views, labels) -> (state, metrics, (u, v))` for one learner.

  With `microbatches` > 1 the batch is encoded in that many pieces; loss and gradient are those of the whole batch.
  """

  def encode(params, batch_stats, views):
    (_, projected), changed = model.apply(
        {"params": params, "batch_stats": batch_stats}, views.reshape(-1, *views.shape[2:]), train=True,
        mutable=["batch_stats"])
    return projected.reshape(*views.shape[:2], -1), changed.get("batch_stats", {})

  def loss(projected, labels):
    u, v = whiten(projected[:, 0], projected[:, 1])
    return objective(u, v, labels), (u, v)

  def value_and_gradient(params, batch_stats, views, labels):
    if microbatches > 1:
      return microbatch.value_and_gradient(
          encode, lambda projected: loss(projected, labels), params, batch_stats, views, microbatches)

    def whole(params):
      projected, changed = encode(params, batch_stats, views)
      value, embeddings = loss(projected, labels)
      return value, (changed, embeddings)

    return jax.value_and_grad(whole, has_aux=True)(params)

  def update(state, views, labels):
    (value, (batch_stats, embeddings)), gradient = value_and_gradient(state.params, state.batch_stats, views, labels)
    changes, opt_state = tx.update(gradient, state.opt_state, state.params)
    metrics = {"loss": value, "gradient_norm": optax.tree.norm(gradient), "learning_rate": schedule(state.step)}
    new = State(state.step + 1, state.key, optax.apply_updates(state.params, changes), batch_stats, opt_state)
    return new, metrics, embeddings

  return update


def make_step(update, views, diagnose, mesh, shardings, momentum=0.0):
  """Returns `(step, observed_step)`, both `(state, batch, images, labels) -> (state, metrics)`.

  The second also returns `diagnose(u, v)` of the embeddings that the step computed. The state is donated.
  With `momentum`, the state's average follows the parameters: `average <- momentum average + (1 - momentum) params`.
  """

  def step(state, batch, images, labels, observe):
    pictures = views(state, batch, images)
    before = state.average
    state, metrics, embeddings = update(state, pictures, labels[batch["index"]])
    if momentum:
      state = state._replace(average=optax.incremental_update(state.params, before, 1 - momentum))
    if observe:
      metrics |= diagnose(*jax.tree.map(lax.stop_gradient, embeddings))
    return state, metrics

  return tuple(
      jax.jit(functools.partial(step, observe=observe), donate_argnums=0, out_shardings=(shardings, replicated(mesh)))
      for observe in (False, True))
