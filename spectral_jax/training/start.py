"""What a run begins with: a fresh initialization, or what another run has learned."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import jax
import numpy as np
from flax.traverse_util import flatten_dict, unflatten_dict

from spectral_jax._errors import ConfigError
from spectral_jax.mesh import place
from spectral_jax.workdir.folder import read_config

if TYPE_CHECKING:
  from spectral_jax._types import Config
  from spectral_jax.training.state import State

PARTS = ("network", "encoder")
SHOWN = 4  # names in an error


def taken_over(state: State, config: Config) -> State:
  """Returns `state` with every learner's network replaced by the one of `config.init_from`.

  Parameters and batch statistics are taken; the optimizer, its schedule and what an objective owns begin anew. With
  `config.init_part` "encoder" the projector stays as it is.

  Raises:
    ConfigError: there is no such run or checkpoint, or its arrays do not fit; the message names them.
  """
  from spectral_jax.encoder import read_network  # not above: a run of its own needs no checkpoint to begin
  source = config.init_from
  step = int(config.init_step) if config.init_step.isdigit() else config.init_step
  found, step = read_network(source, read_config(source), step=step)
  print(f"Starts from the {config.init_part} of step {step} in {source}.")
  return state._replace(learners={name: _with(learner, found, config) for name, learner in state.learners.items()})


def _with(learner, found, config):
  whole = config.init_part == "network"
  take = lambda own, other: _matched(own, other if whole else {"encoder": other.get("encoder", {})}, whole, config)
  params = {**learner.params, "model": take(learner.params["model"], found["params"])}
  average = {**learner.average, "model": jax.tree.map(lambda x: x.copy(), params["model"])} if learner.average else {}
  return learner._replace(params=params, batch_stats=take(learner.batch_stats, found["batch_stats"]), average=average)


def _matched(own, other, whole, config):
  """The tree `own` with the arrays of `other`, each where it lies; what only one has, or of other shapes, is named."""
  mine: dict[str, Any] = flatten_dict(own, sep=".")
  theirs: dict[str, Any] = flatten_dict(other, sep=".")
  wanted = [name for name in mine if whole or name.startswith("encoder.")]
  wrong = [f"{name}: {_shape(theirs.get(name))} there, {_shape(mine.get(name))} here"
           for name in sorted({*wanted, *theirs}) if _shape(theirs.get(name)) != _shape(mine.get(name))]
  if wrong:
    more = f" and {len(wrong) - SHOWN} more" if len(wrong) > SHOWN else ""
    projector = " --config.init_part=encoder leaves the projector out." if whole and all(
        line.startswith("projector.") for line in wrong) else ""
    raise ConfigError(f"config.init_from={config.init_from!r} does not fit config.model and the images: "
                      f"{'; '.join(wrong[:SHOWN])}{more}. Give the same config.model and channels as there.{projector}")
  taken = {name: place(np.asarray(theirs[name], mine[name].dtype), mine[name].sharding) for name in wanted}
  return unflatten_dict({**mine, **taken}, sep=".")


def _shape(array):
  return "absent" if array is None else tuple(array.shape)
