"""How much the parameter gradient varies from batch to batch, with and without whitening, at fixed parameters.

Over K batches with gradients `g_1..g_K` of mean `m`: `variance = sum ||g_k - m||^2 / (K - 1)`, the trace of their
covariance; `normalized = variance / ||m||^2`, which a change of the gradient's scale leaves alone. Beside them what the
band predicts: the ratio of the mean `repulsion^2 lambda chi2` without and with whitening (docs/theory.md, section 5).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import jax
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree

from spectral_jax import bounds, preemption, progress
from spectral_jax._errors import ConfigError
from spectral_jax.studies import variance_page
from spectral_jax.studies.moments import Moments, trained
from spectral_jax.studies.study import provenance
from spectral_jax.training.run import open_run
from spectral_jax.workdir.folder import claim, disk_errors

if TYPE_CHECKING:
  import pathlib
  from collections.abc import Sequence
  from typing import Any

  from spectral_jax._types import Config
  from spectral_jax.training.run import Run
  from spectral_jax.training.state import State

# The three methods' embeddings differ by a rotation, which no loss of inner products sees: one stands for all.
METHODS = ("", "zca")


def conduct(config: Config, name: str, workdir: str | pathlib.Path, *, batches: int,
            train_steps: int) -> dict[str, Any]:
  """The study at the initial parameters and after `train_steps` steps; returns what variance.json holds.

  Raises:
    ConfigError: a config that no run could use, or a folder that holds another run or cannot be written.
    RunError: another process works in the folder, the disk is full, or training diverged.
    preemption.Preempted: asked to stop; nothing was kept.
  """
  run = open_run(config)
  with claim(workdir, config) as folder, disk_errors(folder), preemption.watched():
    results = {}
    for steps in sorted({0, train_steps}):
      when = f"after {steps:,} step{'s' * (steps != 1)}"
      results[when] = gradient_variance(run, trained(run, steps), batches=batches)
    setting = (f"{run.dataset.name}, {run.dataset.train.size:,} training images, {config.model.encoder}, "
               f"{config.loss.name}, batches of {config.batch_size}, seed {config.seed}")
    content = {"about": {**provenance("spectral_jax.variance"), "config": name, "setting": setting},
               "batches": batches, "results": results}
    variance_page.leave(folder, content)
  print(f"{variance_page.table(content)}\n\nEverything is in {folder}")
  return content


def gradient_variance(run: Run, state: State, *, batches: int = 50,
                      methods: Sequence[str] = METHODS) -> dict[str, dict[str, float]]:
  """The study at the parameters of `state`: the same batches and views for every method.

  Args:
    run: from `training.run.prepare`, resident data.
    state: its parameters and batch statistics are used and not changed.
    batches: K >= 2; 50 by default.
    methods: whitening methods to compare; `""` is none and must be among them, the others are compared with it.

  Returns:
    A dictionary from method (`"none"` for `""`) to a dictionary of floats: `variance`, `normalized`, `squared_mean`
    (`||m||^2`), `loss`, `rho_squared` (mean `repulsion^2 lambda chi2`), and with respect to no whitening
    `variance_ratio`, `normalized_ratio`, `predicted_ratio` (each without over with: above 1 where whitening lowers it).

  Raises:
    ValueError: fewer than two batches, no `""` among the methods, or data that is streamed.
  """
  if batches < 2:
    raise ValueError(f"batches must be at least 2 for a variance, got {batches}; 50 is the default")
  if "" not in methods:
    raise ValueError(f"methods must hold '' (no whitening), which the others are compared with; got {methods}")
  if run.images is None:
    raise ConfigError("the data is streamed; use a resident data set (--config.data.path=resident)")
  rows = {method or "none": _measure(run, state, batches, method) for method in methods}
  plain = rows["none"]
  for row in rows.values():
    row["variance_ratio"] = plain["variance"] / row["variance"]
    row["normalized_ratio"] = plain["normalized"] / row["normalized"]
    row["predicted_ratio"] = plain["rho_squared"] / row["rho_squared"]
  return rows


def _measure(run, state, batches, method):
  gradient = _jitted(run, method)
  moments, losses, rho = Moments(), [], []
  steps = progress.bar(f"gradients, {f'whitening {method}' if method else 'no whitening'}", batches, unit="batches")
  for k, index in enumerate(_batches(run.plan, batches)):
    preemption.check()
    # The step fixes the augmentation's randomness: other views for every batch, the same for every method.
    batch = {"index": jnp.asarray(index), "labels": run.labels[index]}
    views = run.views(state._replace(step=jnp.asarray(k, jnp.int32)), batch)
    loss, g, rho_squared = gradient(state.learners[run.program.main], views, batch)
    moments.add(g)
    losses.append(float(loss))
    rho.append(float(rho_squared))
    steps.update()
  steps.close()
  return {**moments.row(), "loss": float(np.mean(losses)), "rho_squared": float(np.mean(rho))}


def _batches(plan, count):
  """The first `count` batches of as many epochs as that takes."""
  epochs = -(-count // plan.steps_per_epoch)
  return np.concatenate([plan.random_table(epoch) for epoch in range(epochs)])[:count]


def _jitted(run, method):
  """The training step's own gradient, of the main learner, with another whitening; flat, and the band's rho."""
  gradient, temperature = run.program.whitened(method), run.hyper.temperature[run.program.main]

  @jax.jit
  def flat(learner, views, batch):
    loss, g, _, _, (u, v) = gradient(learner, views, batch, temperature)
    terms = bounds.band_terms(u, v, temperature=temperature)
    return loss, ravel_pytree(g)[0], jnp.mean(terms.repulsion ** 2 * terms.anisotropy * terms.variance)

  return flat
