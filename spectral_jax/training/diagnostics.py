"""What a training step's embeddings say: how large the gradients can be, and how the space is used."""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING

import jax
import jax.numpy as jnp
import numpy as np

from spectral_jax import _arrays, bounds, losses, metrics, spectrum
from spectral_jax.bounds.batch import batch_report
from spectral_jax.training.objective import learner_sections, temperature_of
from spectral_jax.training.optimizer import warmup_cosine
from spectral_jax.training.state import variables

if TYPE_CHECKING:
  from jaxtyping import Array, ArrayLike, Float, Int

  from spectral_jax._types import Scalar
  from spectral_jax.training.run import Run
  from spectral_jax.training.state import State

VANISHED = 0.01  # an anchor whose q = 1 - p_positive lies below has all but stopped learning


def diagnostics(u: Float[ArrayLike, "n d"], v: Float[ArrayLike, "n d"], *,
                temperature: Scalar) -> dict[str, Float[Array, ""]]:
  """Gradient band, spectrum, alignment and uniformity of one batch; InfoNCE's anchors, whatever the run's loss.

  Pure, jittable and linear in memory: similarities are formed a tile of anchors at a time.

  Args:
    u, v: `(n, d)` embeddings of two views; rows are L2-normalized inside.
    temperature: tau > 0.

  Returns:
    A dictionary of scalars: `band_lower`, `band_value`, `band_upper` (mean over anchors of the squared gradient norm
    and its bounds), `band_lower_ratio`, `band_upper_ratio` (bounds over the value, as norms: how tightly the band
    tracks), `effective_negatives`, `vanished_share` (anchors with q < 0.01), `alignment`, `uniformity`,
    `top_eigenvalue`, `effective_rank` (entropy), `effective_rank_rankme`, `effective_rank_participation`,
    `effective_rank_stable` (of both views on the unit sphere, not centered).

  >>> import jax
  >>> u, v = jax.random.normal(jax.random.key(0), (2, 32, 8))
  >>> report = diagnostics(u, v, temperature=0.5)
  >>> bool(report["band_lower"] <= report["band_value"] <= report["band_upper"])
  True
  """
  u, v = (_arrays.unit_rows(x) for x in _arrays.pair(u, v))
  band, repulsion, effective = batch_report(u, v, temperature=temperature)
  both = jnp.concatenate([u, v])
  ranks = spectrum.effective_ranks(both)
  nonzero = band.value > 0
  value = jnp.where(nonzero, band.value, 1.0)
  return {
      "band_lower": band.lower,
      "band_value": band.value,
      "band_upper": band.upper,
      "band_lower_ratio": jnp.where(nonzero, jnp.sqrt(band.lower / value), 1.0),
      "band_upper_ratio": jnp.where(nonzero, jnp.sqrt(band.upper / value), 1.0),
      "effective_negatives": jnp.mean(effective),
      "vanished_share": jnp.mean(repulsion * temperature < VANISHED, dtype=u.dtype),
      "alignment": metrics.alignment(u, v),
      "uniformity": metrics.uniformity(u),
      # Each eigenvalue of unit rows is a share of 1: the greatest is one over the stable rank.
      "top_eigenvalue": 1 / jnp.maximum(ranks["stable"], 1.0),
      "effective_rank": ranks["entropy"],
      "effective_rank_rankme": ranks["rankme"],
      "effective_rank_participation": ranks["participation"],
      "effective_rank_stable": ranks["stable"]}


def loss_gap(u: Float[ArrayLike, "n d"], v: Float[ArrayLike, "n d"], labels: Int[Array, " n"], *,
             temperature: Scalar) -> dict[str, Float[Array, ""]]:
  """What a batch's contrastive loss exceeds its label-aware form by, at the same embeddings, and the bound on it.

  Means over the anchors that have a negative of another class of `l_CL - l_NSCL` (`losses.dcl`, `losses.nscl`) and of
  `bounds.anchor_loss_gap_bound`, which holds anchor by anchor.

  Args:
    u, v: `(b, d)` embeddings of two views.
    labels: `(b,)` integer classes.
    temperature: tau > 0.

  Returns:
    A dictionary of scalars, nats: `loss_gap` and `loss_gap_bound`; both 0 for a batch of one class, which has no gap.

  >>> import jax
  >>> u, v = jax.random.normal(jax.random.key(0), (2, 32, 8))
  >>> gap = loss_gap(u, v, jax.numpy.arange(32) % 3, temperature=0.5)
  >>> bool(0 <= gap["loss_gap"] <= gap["loss_gap_bound"])
  True
  """
  gaps = losses.dcl(u, v, temperature=temperature, reduction="none") - losses.nscl(
      u, v, labels, temperature=temperature, reduction="none")
  limits = bounds.anchor_loss_gap_bound(labels, temperature=temperature)
  counted = jnp.any(labels != labels[0])  # of two classes or more, every anchor has another's
  mean = lambda x: jnp.mean(jnp.where(counted, x, 0.0))
  return {"loss_gap": mean(gaps), "loss_gap_bound": mean(limits)}


def loss_gaps(run: Run, state: State) -> dict[str, float]:
  """`loss_gap` of every learner, on a batch of training images seen as the next step would see it.

  Embeddings are those of the network with its running statistics, as at every evaluation.
  """
  # Drawn at random, as training's are: a batch spread evenly over images sorted by class shows no class twice.
  batch = next(iter(run.feed(run.plan.random_table(0)[:1], int(state.step))))
  views, labels, said = run.views(state, batch), run.labels[batch["index"]], {}
  for name, learner in state.learners.items():
    u, v = (run.program.encode(variables(learner), view)[1] for view in views)
    gap = _jitted_gap(u, v, labels, run.hyper.temperature[name])
    said |= {f"{name}/{key}": float(value) for key, value in gap.items()}
  return said


@jax.jit
def _jitted_gap(u, v, labels, temperature):
  return loss_gap(u, v, labels, temperature=temperature)


def drift_bounds(run: Run, steps: int) -> dict[str, float]:
  """`bounds.similarity_drift_bound` after that many steps, of each pair of learners that it is about: DCL and NSCL.

  The theorem is on gradient descent on the similarities themselves. The run's step sizes stand for its own, so that a
  run, which descends in its parameters, may exceed it: reports say so where it happens.
  """
  sections, said = learner_sections(run.config), {}
  taken = jnp.arange(run.total_steps)
  schedule = warmup_cosine(*(np.asarray(x) for x in (
      run.hyper.learning_rate, run.hyper.warmup_steps, run.hyper.total_steps)))
  counts = np.bincount(run.dataset.train.labels)
  for (a, of_a), (b, of_b) in itertools.combinations(sorted(sections.items()), 2):
    if {of_a.name, of_b.name} == {"dcl", "nscl"} and not (of_a.kwargs or of_b.kwargs) and (
        temperature_of(of_a) == temperature_of(of_b)):
      said[f"{a}~{b}/similarity_drift_bound"] = float(bounds.similarity_drift_bound(
          jnp.where(taken < steps, schedule(taken), 0.0), batch_size=run.config.batch_size,
          temperature=temperature_of(of_a), max_class_prior=counts.max() / counts.sum()))
  return said
