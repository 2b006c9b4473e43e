"""From a config to a run: everything is checked first, then opened and built once, each part from its own section."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from spectral_jax.data import Dataset, open_dataset
from spectral_jax.evaluation import split_features
from spectral_jax.mesh import make_mesh, place, replicated
from spectral_jax.training.batches.bank import make_bank
from spectral_jax.training.batches.feed import make_feed
from spectral_jax.training.batches.planner import make_plan
from spectral_jax.training.checks import check_batch, check_config
from spectral_jax.training.objective import learner_sections, temperature_of
from spectral_jax.training.optimizer import peak_learning_rate, warmup_length
from spectral_jax.training.program import Program, Shape, make_program
from spectral_jax.training.start import taken_over
from spectral_jax.training.step import Hyper

if TYPE_CHECKING:
  from collections.abc import Mapping

  from jax.sharding import Mesh
  from jaxtyping import Array, Float

  from spectral_jax._types import Config
  from spectral_jax.training.state import State

# The smallest batch that all images are encoded in for the sake of a small split; a smaller one has its own program.
ENCODED = 128


class Run(NamedTuple):
  config: Any
  mesh: jax.sharding.Mesh
  dataset: Dataset
  program: Program
  hyper: Hyper
  steps_per_epoch: int
  total_steps: int
  plan: Any                          # batches.planner.Plan: how batches are chosen
  bank: Any                          # batches.bank.Bank, or None where no rule looks at embeddings
  feed: Callable                     # (table, first_step) -> batches on the devices
  features: Callable                 # (variables, split, indices) -> (features, projections), frozen
  images: jax.Array | None           # the training images where they stay on the devices
  labels: jax.Array

  def init(self) -> State:
    """The state before the first step, the same on every call."""
    return self.program.init(jnp.int32(self.config.seed))

  def start(self) -> State:
    """The state that training begins with: `init`, or what `config.init_from` has learned."""
    return taken_over(self.init(), self.config) if self.config.init_from else self.init()

  def step(self, state: State, batch: Mapping[str, Array], observed: bool = False) -> tuple[State, dict[str, Array]]:
    """Returns the state after one more step and its metrics, with diagnostics if `observed`; `state` is donated."""
    return self.program.step(state, batch, self.images, self.labels, self.hyper, observed)

  def views(self, state: State, batch: Mapping[str, Array]) -> tuple[Float[Array, "b h w c"], Float[Array, "b h w c"]]:
    """The two views that the next step would make of a batch."""
    return self.program.views(state, batch, self.images)


def open_run(config: Config, mesh: Mesh | None = None) -> Run:
  """Returns the `Run` that `config` describes; what the config alone shows to be wrong is said before data are read."""
  check_config(config)
  mesh = mesh or make_mesh(config.model_parallel)
  dataset = open_dataset(config.data)
  return prepare(config, dataset, mesh)


def prepare(config: Config, dataset: Dataset, mesh: Mesh) -> Run:
  """Builds a `Run` on data that are open; all it does with them is to copy the training set to the devices."""
  check_batch(config, dataset, mesh)
  size, batch_size = dataset.train.size, config.batch_size
  steps_per_epoch = size // batch_size
  total_steps = config.steps or config.epochs * steps_per_epoch
  plan = make_plan(config, size, total_steps)
  everywhere = replicated(mesh)
  hyper = Hyper(
      {name: temperature_of(section) for name, section in learner_sections(config).items()},
      peak_learning_rate(config.optimizer, batch_size),
      warmup_length(config.optimizer, total_steps, steps_per_epoch), total_steps)
  program = make_program(config, Shape(dataset.image_shape, size, len(dataset.class_names), dataset.resident, mesh))
  features = functools.partial(
      split_features, program.encode, batch_size=_encoded_together(config.eval, dataset), mesh=mesh)
  return Run(
      config, mesh, dataset, program,
      hyper=jax.tree.map(lambda number: place(np.float32(number), everywhere), hyper),
      steps_per_epoch=steps_per_epoch, total_steps=total_steps, plan=plan,
      bank=make_bank(config.bank, program, dataset, mesh, config.eval.batch_size) if plan.options else None,
      feed=make_feed(dataset.train, mesh, config.data.image_size, config.seed, config.augment.crop_scale),
      features=features,
      images=place(dataset.train.images(), everywhere) if dataset.resident else None,
      labels=place(np.asarray(dataset.train.labels, np.int32), everywhere))


def _encoded_together(limits, dataset):
  """Images in a batch of whatever a run encodes: no more than the fewest, so that one program is enough."""
  train, test = dataset.train.size, dataset.test.size
  counts = [limit or train for limit in (limits.knn_limit, limits.train_limit, limits.baseline_limit)]
  fewest = min(train, *counts, limits.test_limit or test, test)
  return min(limits.batch_size, max(ENCODED, fewest))
