"""What a training step's embeddings say: how large the gradients can be, and how the space is used."""

import jax.numpy as jnp

from spectral_jax import _arrays, metrics, spectrum
from spectral_jax.bounds.batch import batch_report
from spectral_jax.training.objective import learnt_values

VANISHED = 0.01  # an anchor whose q = 1 - p_positive lies below has all but stopped learning


def diagnostics(u, v, *, temperature):
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


def diagnose(observed):
  """The diagnostics of one learner's step, a `step.Observed`, and what its objective learns: a temperature, a bias."""
  learnt = learnt_values(observed.before.params["objective"], observed.temperature)
  return diagnostics(*observed.embeddings, temperature=learnt.get("temperature", observed.temperature)) | learnt
