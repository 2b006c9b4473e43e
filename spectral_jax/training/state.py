"""Everything about a run that changes from step to step, as one tree of arrays."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import jax
import jax.numpy as jnp

if TYPE_CHECKING:
  from collections.abc import Mapping, Sequence

  from jaxtyping import PRNGKeyArray, PyTree


class Learner(NamedTuple):
  """One model under training. Those of a run share initialization, batches and views, and differ in their objective."""
  params: Any              # {"model": the network's, "objective": what the objective owns, such as a linear head}
  batch_stats: Any
  opt_state: Any
  average: Any = {}        # a moving average of the parameters, where the bank asks for one
  memory: Any = {}         # what an objective remembers of each example


class State(NamedTuple):
  """`step` counts the updates made; with `key` it fixes all later randomness, so it is the data position too."""
  step: jax.Array          # () int32
  key: jax.Array           # raw key data: plain integers survive any checkpoint format
  learners: dict[str, Learner]


def init_state(seed: Any, model: Any, objectives: Mapping[str, Any], tx: Any, image_shape: Sequence[int], *,
               examples: int = 0, averaged: bool = False) -> State:
  """Returns the state before the first step; pure, so that it can be jitted with the shardings wanted.

  Args:
    seed: an integer, which may be traced.
    model: a Flax module that returns features and projections.
    objectives: `{name: objective.Objective}`; every learner begins with the same network.
    tx: an optax transformation.
    image_shape: `(h, w, c)`.
    examples: number of training images, for objectives that remember each.
    averaged: whether learners carry a moving average of their parameters.
  """
  init_key, run_key = jax.random.split(jax.random.key(seed))
  (_, projected), variables = model.init_with_output(init_key, jnp.zeros((2, *image_shape), jnp.float32), train=False)
  learners = {}
  for name, objective in objectives.items():
    owned, memory = objective.init(jax.random.fold_in(init_key, 1), projected.shape[1], examples)
    params = {"model": jax.tree.map(jnp.copy, variables["params"]), "objective": owned}
    learners[name] = Learner(
        params, jax.tree.map(jnp.copy, variables.get("batch_stats", {})), tx.init(params),
        average=jax.tree.map(jnp.copy, params) if averaged else {}, memory=memory)
  return State(jnp.zeros((), jnp.int32), jax.random.key_data(run_key), learners)


def variables(learner: Learner) -> dict[str, PyTree]:
  """The model's variables, as `model.apply` takes them."""
  return {"params": learner.params["model"], "batch_stats": learner.batch_stats}


def averaged_variables(learner: Learner) -> dict[str, PyTree]:
  """The same with the moving average of the parameters; the batch statistics are averages anyway."""
  return {"params": learner.average["model"], "batch_stats": learner.batch_stats}


def step_key(state: State) -> PRNGKeyArray:
  """The key of the step about to be made."""
  return jax.random.fold_in(jax.random.wrap_key_data(state.key), state.step)
