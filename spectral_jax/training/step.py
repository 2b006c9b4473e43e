"""One training step: two views, and for each learner the model, its loss, its update; jitted once, its state donated.

Learners see the same batch and the same views, so that nothing but their objectives tells them apart.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from spectral_jax.training import microbatch
from spectral_jax.training.objective import learned_values
from spectral_jax.training.state import Learner, State

if TYPE_CHECKING:
  from collections.abc import Callable, Mapping


class Hyper(NamedTuple):
  """Numbers that may differ between runs of one compiled step."""
  temperature: dict[str, float]      # of each learner
  learning_rate: float               # at the end of the warm-up
  warmup_steps: float
  total_steps: float


class Updated(NamedTuple):
  """A learner after one update, and what that was made of."""
  learner: Learner
  gradient: Any
  updates: Any
  embeddings: tuple[jax.Array, jax.Array]   # (u, v), each (b, p), whitened where the config asks for it


def make_gradient(model: Any, objective: Any, whiten: Callable[..., Any], microbatches: int = 1) -> Callable[..., Any]:
  """Returns `gradient(learner, views, batch, temperature) -> (value, gradient, batch_stats, memory, (u, v))`.

  With `microbatches` > 1 the batch is encoded in that many pieces; loss and gradient are those of the whole batch.
  """
  def encode(params, batch_stats, views):
    # Example by example, not one view after the other: a device keeps both views of its own examples.
    pixels = jnp.stack(views, axis=1)
    (_, projected), changed = model.apply(
        {"params": params["model"], "batch_stats": batch_stats}, pixels.reshape(-1, *pixels.shape[2:]), train=True,
        mutable=["batch_stats"])
    projected = projected.reshape(*pixels.shape[:2], -1)
    return (projected[:, 0], projected[:, 1]), changed.get("batch_stats", {})

  def gradient(learner, views, batch, temperature):
    def loss(params, embeddings):
      whitened = whiten(*embeddings)
      value, memory = objective.loss(params["objective"], learner.memory, whitened, batch, temperature)
      return value, (memory, whitened)

    def whole(params):
      embeddings, batch_stats = encode(params, learner.batch_stats, views)
      value, aux = loss(params, embeddings)
      return value, (batch_stats, aux)

    if microbatches > 1:
      found = microbatch.value_and_gradient(encode, loss, learner.params, learner.batch_stats, views, microbatches)
    else:
      found = jax.value_and_grad(whole, has_aux=True)(learner.params)
    (value, (batch_stats, (memory, embeddings))), slopes = found
    return value, slopes, batch_stats, memory, embeddings

  return gradient


def make_update(gradient: Callable[..., Any], tx: Any, momentum: float = 0.0) -> Callable[..., Any]:
  """Returns `update(learner, views, batch, temperature) -> (value, Updated)`.

  With `momentum`, the learner's average follows: `average <- momentum average + (1 - momentum) params`.
  """
  def update(learner, views, batch, temperature):
    value, slopes, batch_stats, memory, embeddings = gradient(learner, views, batch, temperature)
    changes, opt_state = tx.update(slopes, learner.opt_state, learner.params)
    params = optax.apply_updates(learner.params, changes)
    average = optax.incremental_update(params, learner.average, 1 - momentum) if momentum else learner.average
    return value, Updated(Learner(params, batch_stats, opt_state, average, memory), slopes, changes, embeddings)

  return update


def make_step(gradient: Callable[..., Any], make_tx: Callable[..., Any], views: Callable[..., Any],
              momentum: float = 0.0) -> Callable[..., Any]:
  """Returns one learner's step, `(learner, count, key, batch, images, labels, hyper) -> (learner, count, metrics, uv)`.

  The views are made inside, from the key and the count of steps that learners share, so that each computes what it
  would alone: a learner of several is to the last bit the run of its objective, and two of one objective stay the
  same. `uv` are the views' embeddings, for whoever looks at the step: what is looked at changes no bit of it.

  Args:
    gradient: what make_gradient returns.
    make_tx: `hyper -> (tx, schedule)`.
    views: `(state, batch, images) -> (u, v)`; of the state it takes step and key.
    momentum: of the parameters' average.
  """
  def step(learner, count, key, batch, images, labels, hyper):
    tx, schedule = make_tx(hyper)
    seen = views(State(count, key, {}), batch, images)
    batch = {"index": batch["index"], "labels": labels[batch["index"]]}
    value, updated = make_update(gradient, tx, momentum)(learner, seen, batch, hyper.temperature)
    metrics = {"loss": value, "gradient_norm": optax.tree.norm(updated.gradient), "learning_rate": schedule(count),
               **learned_values(learner.params["objective"], hyper.temperature)}
    return updated.learner, count + 1, metrics, updated.embeddings

  return step


def step_of_all(steps: Mapping[str, Callable[..., Any]], look: Callable[..., Any]) -> Callable[..., Any]:
  """Returns `step(state, batch, images, labels, hyper, observed) -> (state, metrics)`.

  Args:
    steps: `{learner: its jitted step}`.
    look: `(u, v, temperature) -> metrics`, jitted; what it finds is added to those of a step that is observed.
  """
  def step(state, batch, images, labels, hyper, observed=False):
    learners, metrics, count = {}, {}, state.step
    for name, of_one in steps.items():
      own = hyper._replace(temperature=hyper.temperature[name])
      learners[name], count, metrics[name], embeddings = of_one(
          state.learners[name], state.step, state.key, batch, images, labels, own)
      if observed:
        metrics[name] |= look(*embeddings, temperature=metrics[name].get("temperature", own.temperature))
    return State(count, state.key, learners), named(metrics)

  return step


def named(metrics: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
  """`{learner: {metric: x}}` as one dictionary of "learner/metric"; the metrics of a single learner have no prefix.

  >>> named({"main": {"loss": 1}}), named({"cl": {"loss": 1}, "nscl": {"loss": 2}})
  ({'loss': 1}, {'cl/loss': 1, 'nscl/loss': 2})
  """
  alone = len(metrics) == 1
  return {key if alone else f"{name}/{key}": value for name, of_one in metrics.items() for key, value in of_one.items()}
