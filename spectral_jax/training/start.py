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


def check_start(state: State, config: Config) -> None:
  """Raises the errors of `taken_over`, for a state of arrays or of their shapes; changes nothing."""
  found, _ = _read(config)
  for learner in state.learners.values():
    for own, part in ((learner.params["model"], "params"), (learner.batch_stats, "batch_stats")):
      _taken(own, found[part], config)


def taken_over(state: State, config: Config) -> State:
  """Returns `state` with every learner's network replaced by the one of `config.init_from`.

  Parameters and batch statistics are taken; the optimizer, its schedule and what an objective owns begin anew. With
  `config.init_part` "encoder" the projector stays as it is.

  Raises:
    ConfigError: there is no such run or checkpoint, or its arrays do not fit; the message names them.
  """
  found, step = _read(config)
  print(f"Starts from the {config.init_part} of step {step} in {config.init_from}.")
  return state._replace(learners={name: _with(learner, found, config) for name, learner in state.learners.items()})


def _read(config):
  """The network of `config.init_from`, and the step that it was saved at."""
  from spectral_jax.encoder import read_network  # not above: a run of its own needs no checkpoint to begin
  step = int(config.init_step) if config.init_step.isdigit() else config.init_step
  try:
    return read_network(config.init_from, read_config(config.init_from), step=step)
  except ConfigError as error:
    raise ConfigError(f"config.init_from={config.init_from!r}, config.init_step={config.init_step!r}: {error}"
                      ) from error


def _with(learner, found, config):
  params = {**learner.params, "model": _matched(learner.params["model"], found["params"], config)}
  average = {**learner.average, "model": jax.tree.map(lambda x: x.copy(), params["model"])} if learner.average else {}
  return learner._replace(params=params, average=average,
                          batch_stats=_matched(learner.batch_stats, found["batch_stats"], config))


def _matched(own, other, config):
  """The tree `own` with the arrays of `other`, each where it lies."""
  mine, theirs = _taken(own, other, config)
  taken = {name: place(np.asarray(array, mine[name].dtype), mine[name].sharding) for name, array in theirs.items()}
  return unflatten_dict({**mine, **taken}, sep=".")


def _taken(own, other, config):
  """Both trees flat, of `other` what is taken over; what only one has, or of other shapes, is named in an error."""
  whole = config.init_part == "network"
  mine: dict[str, Any] = flatten_dict(own, sep=".")
  theirs: dict[str, Any] = flatten_dict(other if whole else {"encoder": other.get("encoder", {})}, sep=".")
  wanted = [name for name in mine if whole or name.startswith("encoder.")]
  wrong = [f"{name}: {_shape(theirs.get(name))} there, {_shape(mine.get(name))} here"
           for name in sorted({*wanted, *theirs}) if _shape(theirs.get(name)) != _shape(mine.get(name))]
  if wrong:
    more = f" and {len(wrong) - SHOWN} more" if len(wrong) > SHOWN else ""
    projector = " --config.init_part=encoder leaves the projector out." if whole and all(
        line.startswith("projector.") for line in wrong) else ""
    raise ConfigError(f"config.init_from={config.init_from!r} does not fit config.model and the images: "
                      f"{'; '.join(wrong[:SHOWN])}{more}. Give the same config.model and channels as there.{projector}")
  return mine, theirs


def _shape(array):
  return "absent" if array is None else tuple(array.shape)
