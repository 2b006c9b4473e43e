"""What is compiled for a run, apart from what the run is: shared by all runs of one shape.

Temperature, learning rate, lengths and seed are arguments of the compiled functions; all else that they depend on is
the key under which a program is kept, so that a study compiles once for all its cells of one shape.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import TYPE_CHECKING, NamedTuple

import jax
from ml_collections import config_dict

from spectral_jax.augment import make_augment
from spectral_jax.config import main_name
from spectral_jax.mesh import over_data, replicated, state_shardings
from spectral_jax.models import build_model, make_encode
from spectral_jax.training.diagnostics import diagnostics
from spectral_jax.training.objective import learner_sections, make_objective, make_whitening
from spectral_jax.training.optimizer import make_optimizer
from spectral_jax.training.state import init_state
from spectral_jax.training.step import Hyper, make_gradient, make_step, step_of_all
from spectral_jax.training.views import make_views

if TYPE_CHECKING:
  from spectral_jax._types import Config


class Shape(NamedTuple):
  """What a program depends on besides the config: the data's shape and the mesh."""
  image: tuple[int, int, int]
  examples: int
  classes: int
  resident: bool
  mesh: jax.sharding.Mesh


class Program(NamedTuple):
  main: str                 # the main learner: see config.main_name
  init: Callable            # seed -> State
  step: Callable            # (state, batch, images, labels, hyper, observed) -> (state, metrics); learners are donated
  views: Callable           # (state, batch, images) -> (u, v)
  encode: Callable          # (variables, images, uint8 or views) -> (features, projections)
  whitened: Callable        # method -> (learner, views, batch, temperature) -> (value, gradient, ...), not jitted


def make_program(config: Config, shape: Shape) -> Program:
  """Returns the `Program` of a config's sections, the one made before where they are the same."""
  return _program(static(config), shape)


def static(config: Config) -> Config:
  """The sections that a program depends on, without what is an argument of its functions; hashable."""
  learners = {}
  for name, section in learner_sections(config).items():
    learners[name] = {"name": section.name, "kwargs": dict(section.kwargs or {}), "temperature": None}
  keep = {name: config[name].to_dict() for name in ("augment", "model", "whitening")}
  optimizer = {name: config.optimizer[name] for name in ("name", "weight_decay", "momentum")}
  numbers = {name: config[name] for name in ("batch_size", "microbatches", "sharding")}
  return config_dict.FrozenConfigDict(
      {**keep, **numbers, "optimizer": optimizer, "learners": learners, "image_size": config.data.image_size,
       "momentum": config.bank.momentum, "main": main_name(config)})


@functools.lru_cache(8)
def _program(config, shape):
  mesh, model, make_tx = shape.mesh, build_model(config.model), make_optimizer(config.optimizer)
  objective_of = lambda section: make_objective(section, mesh, config.batch_size, shape.classes)
  objectives = {name: objective_of(section) for name, section in config.learners.items()}
  views = make_views(make_augment(config.augment, config.image_size, cropped=not shape.resident))

  def gradient_of(objective, whitening):
    return make_gradient(model, objective, make_whitening(whitening), config.microbatches)

  def init(seed):
    tx, _ = make_tx(Hyper({}, 1.0, 1.0, 1.0))  # its state does not depend on them
    return init_state(seed, model, objectives, tx, shape.image, examples=shape.examples, averaged=config.momentum > 0)

  everywhere = replicated(mesh)
  shardings = state_shardings(jax.eval_shape(init, 0), mesh, config.sharding)
  compiled = {}  # learners of one objective share it

  def step_of(name, section):
    if section not in compiled:
      step = make_step(gradient_of(objective_of(section), config.whitening), make_tx, views, config.momentum)
      placed = shardings.learners[name], everywhere, everywhere, over_data(mesh)
      compiled[section] = jax.jit(step, donate_argnums=0, out_shardings=placed)
    return compiled[section]

  steps = {name: step_of(name, section) for name, section in config.learners.items()}
  return Program(
      main=config.main, init=jax.jit(init, out_shardings=shardings),
      step=step_of_all(steps, jax.jit(diagnostics, out_shardings=everywhere)),
      views=jax.jit(views, out_shardings=everywhere), encode=jax.jit(make_encode(model), out_shardings=everywhere),
      whitened=lambda method: gradient_of(
          objectives[config.main], config_dict.ConfigDict({**config.whitening, "method": method})))
