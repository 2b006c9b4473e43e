"""What the number of examples in a batch does to a loss's gradient, at fixed parameters.

Over K random batches of B examples with gradients `g_1..g_K` of mean `m`: `variance = sum ||g_k - m||^2 / (K - 1)`, the
trace of their covariance, and `normalized = variance / ||m||^2`. A gradient that is a mean over independent examples
has `B * variance` constant. The repulsion of KCL is a U-statistic: its value and gradient have the same expectation at
every B, where the expectation of a softmax loss depends on B (arXiv 2405.18045).

Batch normalization, with the statistics of a batch, would change the expectation with B by itself: the network is
evaluated with its running statistics.
"""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING

import jax
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree

from spectral_jax._errors import ConfigError
from spectral_jax.studies.intervals import interval
from spectral_jax.studies.moments import Moments
from spectral_jax.training.objective import make_objective, temperature_of
from spectral_jax.training.state import variables

if TYPE_CHECKING:
  from collections.abc import Mapping, Sequence
  from typing import Any

  from spectral_jax._types import Config
  from spectral_jax.training.run import Run
  from spectral_jax.training.state import State


def batch_variance(run: Run, state: State, sections: Mapping[str, Config], sizes: Sequence[int], *, batches: int = 50,
                   seed: int = 0) -> dict[str, dict[int, dict[str, Any]]]:
  """The study at the parameters of the main learner of `state`: the same batches and views for every loss.

  Args:
    run: from `training.run.prepare`, resident data.
    state: its parameters and batch statistics are used and not changed.
    sections: `{name: loss section}`, as those of `config.learners`; losses that own parameters are not for this study.
    sizes: batch sizes, each >= 2 and at most the training set.
    batches: K >= 2; 50.
    seed: of the batches.

  Returns:
    `{name: {B: row}}`; a row has `variance`, `normalized`, `squared_mean` (`||m||^2`) and `loss`, `(mean, half)` of its
    95% confidence interval.

  Raises:
    ValueError: fewer than two batches, or a size that no batch can have.
    ConfigError: data that is streamed.
  """
  if batches < 2:
    raise ValueError(f"batches must be at least 2 for a variance, got {batches}; 50 is the default")
  wrong = [size for size in sizes if not 2 <= size <= run.dataset.train.size]
  if wrong or not sizes:
    raise ValueError(
        f"sizes must lie between 2 and the training set, {run.dataset.train.size} images; got {wrong or sizes}")
  if run.images is None:
    raise ConfigError("the data is streamed; use a resident data set (--config.data.path=resident)")
  network = variables(state.learners[run.program.main])
  slopes = {name: _slope(section) for name, section in sections.items()}
  rows = {name: {} for name in sections}
  for size in sizes:
    moments, values = {name: Moments() for name in sections}, {name: [] for name in sections}
    for k in range(batches):
      index = np.random.default_rng((seed, size, k)).permutation(run.dataset.train.size)[:size].astype(np.int32)
      batch = {"index": jnp.asarray(index), "labels": run.labels[index]}
      # The step fixes the augmentation's randomness: other views for every batch.
      views = run.program.views(state._replace(step=jnp.asarray(k, jnp.int32)), batch, run.images)
      embeddings = _embed(run.program.encode, network, views)
      for name, slope in slopes.items():
        value, directions = slope(embeddings, batch)
        values[name].append(float(value))
        moments[name].add(_pull(run.program.encode, network, views, directions))
    for name in sections:
      rows[name][size] = {**moments[name].row(), "loss": interval(values[name])}
  return rows


def _slope(section):
  """A loss's value and its gradient in the embeddings."""
  objective, temperature = make_objective(section), temperature_of(section)
  value = lambda embeddings, batch: objective.loss({}, {}, embeddings, batch, temperature)[0]
  return jax.jit(jax.value_and_grad(value))


@functools.partial(jax.jit, static_argnums=0)
def _embed(encode, network, views):
  return tuple(encode(network, view)[1] for view in views)


@functools.partial(jax.jit, static_argnums=0)
def _pull(encode, network, views, directions):
  """The gradient in the parameters, flat, of a loss with these gradients in the embeddings of both views."""
  embeddings = lambda params: _embed(encode, {**network, "params": params}, views)
  return ravel_pytree(jax.vjp(embeddings, network["params"])[1](directions)[0])[0]
