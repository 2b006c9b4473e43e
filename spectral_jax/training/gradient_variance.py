"""How much the parameter gradient varies from batch to batch, with and without whitening, at fixed parameters.

Over K batches with gradients `g_1..g_K` of mean `m`: `variance = sum ||g_k - m||^2 / (K - 1)`, the trace of their
covariance; `normalised = variance / ||m||^2`, which a change of the gradient's scale leaves alone. Beside them what the
band predicts: the ratio of the mean `repulsion^2 lambda chi2` without and with whitening (docs/theory.md, section 5).
"""

import jax
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree
from ml_collections import config_dict

from spectral_jax import bounds
from spectral_jax.models import build_model
from spectral_jax.training.batches import epoch_indices
from spectral_jax.training.objective import make_objective, make_whitening, temperature_of

# The three methods' embeddings differ by a rotation, which no loss of inner products sees: one stands for all.
METHODS = ("", "zca")


def gradient_variance(run, state, *, batches=50, methods=METHODS):
  """The study at the parameters of `state`: the same batches and views for every method.

  Args:
    run: from `training.setup.prepare`, resident data.
    state: its parameters and batch statistics are used and not changed.
    batches: K >= 2; 50 by default.
    methods: whitening methods to compare; `""` is none and must be among them, the others are compared with it.

  Returns:
    A dictionary from method (`"none"` for `""`) to a dictionary of floats: `variance`, `normalised`, `squared_mean`
    (`||m||^2`), `loss`, `rho_squared` (mean `repulsion^2 lambda chi2`), and with respect to no whitening
    `variance_ratio`, `normalised_ratio`, `predicted_ratio` (each without over with: above 1 where whitening lowers it).

  Raises:
    ValueError: fewer than two batches, no `""` among the methods, or data that is streamed.
  """
  if batches < 2:
    raise ValueError(f"batches must be at least 2 for a variance, got {batches}; 50 is the default")
  if "" not in methods:
    raise ValueError(f"methods must hold '' (no whitening), which the others are compared with; got {methods}")
  if run.images is None:
    raise ValueError("the data is streamed; use a resident data set (--config.data.path=resident)")
  rows = {method or "none": _measure(run, state, batches, method) for method in methods}
  plain = rows["none"]
  for row in rows.values():
    row["variance_ratio"] = plain["variance"] / row["variance"]
    row["normalised_ratio"] = plain["normalised"] / row["normalised"]
    row["predicted_ratio"] = plain["rho_squared"] / row["rho_squared"]
  return rows


def _measure(run, state, batches, method):
  gradient = _make_gradient(run.config, method)
  total, mean, losses, rho = 0.0, 0.0, [], []
  for k, index in enumerate(_batches(run, batches)):
    # The step fixes the augmentation's randomness: other views for every batch, the same for every method.
    views = run.views(state._replace(step=jnp.asarray(k, jnp.int32)), {"index": jnp.asarray(index)}, run.images)
    loss, g, spread = gradient(state.params, state.batch_stats, views, run.labels[index])
    g = np.asarray(g, np.float64)
    delta = g - mean  # Welford: no difference of large sums
    mean = mean + delta / (k + 1)
    total += delta @ (g - mean)
    losses.append(float(loss))
    rho.append(float(spread))
  variance, squared_mean = total / (batches - 1), mean @ mean
  return {
      "variance": float(variance), "normalised": float(variance / squared_mean), "squared_mean": float(squared_mean),
      "loss": float(np.mean(losses)), "rho_squared": float(np.mean(rho))}


def _batches(run, count):
  """The first `count` batches of as many epochs as that takes."""
  size, batch_size, seed = run.dataset.train.size, run.config.batch_size, run.config.seed
  epochs = -(-count // (size // batch_size))
  return np.concatenate([epoch_indices(seed, epoch, size, batch_size) for epoch in range(epochs)])[:count]


def _make_gradient(config, method):
  model, objective, temperature = build_model(config.model), make_objective(config.loss), temperature_of(config.loss)
  whiten = make_whitening(config_dict.create(method=method, shrinkage=config.whitening.shrinkage))

  def forward(params, batch_stats, views, labels):
    (_, projected), _ = model.apply({"params": params, "batch_stats": batch_stats},
                                    views.reshape(-1, *views.shape[2:]), train=True, mutable=["batch_stats"])
    projected = projected.reshape(*views.shape[:2], -1)
    u, v = whiten(projected[:, 0], projected[:, 1])
    return objective(u, v, labels), (u, v)

  @jax.jit
  def gradient(params, batch_stats, views, labels):
    (loss, (u, v)), g = jax.value_and_grad(forward, has_aux=True)(params, batch_stats, views, labels)
    terms = bounds.band_terms(u, v, temperature=temperature)
    return loss, ravel_pytree(g)[0], jnp.mean(terms.repulsion ** 2 * terms.anisotropy * terms.variance)

  return gradient
