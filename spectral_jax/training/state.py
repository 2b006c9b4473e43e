"""Everything about a run that changes from step to step, as one tree of arrays."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp


class State(NamedTuple):
  """One learner. Several that train together are a dictionary of these, updated on the same views.

  `step` counts the updates made; with `key` it fixes all later randomness, so it is the data position too.
  """
  step: jax.Array          # () int32
  key: jax.Array           # raw key data: plain integers survive any checkpoint format
  params: Any
  batch_stats: Any
  opt_state: Any
  average: Any = {}        # a moving average of the parameters, where the bank asks for one


def init_state(seed, model, tx, image_shape, averaged=False):
  """Returns the state before the first step; pure, so that it can be jitted with the shardings wanted."""
  root = jax.random.key(seed)
  init_key, run_key = jax.random.split(root)
  variables = model.init(init_key, jnp.zeros((2, *image_shape), jnp.float32), train=False)
  params = variables["params"]
  return State(
      step=jnp.zeros((), jnp.int32),
      key=jax.random.key_data(run_key),
      params=params,
      batch_stats=variables.get("batch_stats", {}),
      opt_state=tx.init(params),
      average=jax.tree.map(jnp.copy, params) if averaged else {})


def variables(state):
  """The model's variables, as `model.apply` takes them."""
  return {"params": state.params, "batch_stats": state.batch_stats}


def averaged_variables(state):
  """The same with the moving average of the parameters; the batch statistics are averages anyway."""
  return {"params": state.average, "batch_stats": state.batch_stats}


def step_key(state):
  """The key of the step about to be made."""
  return jax.random.fold_in(jax.random.wrap_key_data(state.key), state.step)
