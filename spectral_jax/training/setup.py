"""From a config and a data set to everything that a run calls: the state and the jitted functions."""

import functools
from typing import Any, Callable, NamedTuple

import jax
import numpy as np

from spectral_jax.augment import make_augment
from spectral_jax.data import Dataset
from spectral_jax.evaluation import make_encoder
from spectral_jax.models import build_model
from spectral_jax.training.diagnostics import diagnostics
from spectral_jax.training.mesh import replicated, state_shardings
from spectral_jax.training.objective import make_objective, make_whitening, temperature_of
from spectral_jax.training.optimizer import make_optimizer
from spectral_jax.training.state import State, init_state
from spectral_jax.training.step import make_step, make_update, make_views


class Run(NamedTuple):
  config: Any
  mesh: jax.sharding.Mesh
  dataset: Dataset
  steps_per_epoch: int
  total_steps: int
  init: Callable[[], State]          # the state before the first step, the same on every call
  step: Callable                     # (state, batch, images, labels) -> (state, metrics)
  observed_step: Callable            # the same with diagnostics among the metrics
  views: Callable                    # (state, batch, images) -> (b, 2, h, w, c)
  encode: Callable                   # (variables, images) -> (features, projections)
  images: jax.Array | None           # the training images where they stay on the device
  labels: jax.Array


def prepare(config, dataset, mesh):
  """Builds a `Run`; computes nothing but the copies of the training set to the devices."""
  steps_per_epoch = dataset.train.size // config.batch_size
  total_steps = config.steps or config.epochs * steps_per_epoch
  model = build_model(config.model)
  tx, schedule = make_optimizer(config.optimizer, config.batch_size, total_steps, steps_per_epoch)
  init = functools.partial(init_state, config.seed, model, tx, dataset.image_shape, averaged=config.bank.momentum > 0)
  shardings = state_shardings(jax.eval_shape(init), mesh)
  augment = make_augment(config.augment, config.data.image_size, cropped=not dataset.resident)
  views = make_views(augment)
  objective = make_objective(config.loss, mesh, config.batch_size)
  update = make_update(model, tx, schedule, objective, make_whitening(config.whitening), config.microbatches)
  diagnose = functools.partial(diagnostics, temperature=temperature_of(config.loss))
  step, observed_step = make_step(update, views, diagnose, mesh, shardings, config.bank.momentum)
  everywhere = replicated(mesh)
  return Run(
      config, mesh, dataset, steps_per_epoch, total_steps,
      init=jax.jit(init, out_shardings=shardings),
      step=step, observed_step=observed_step,
      views=jax.jit(views, out_shardings=everywhere),
      encode=make_encoder(model, mesh),
      images=jax.device_put(dataset.train.images(), everywhere) if dataset.resident else None,
      labels=jax.device_put(np.asarray(dataset.train.labels, np.int32), everywhere))
