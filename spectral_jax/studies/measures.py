"""What a sweep says of a run at each evaluation: scores, the geometry of embeddings, the alignment of learners.

Of every learner, on the test set and on both layers: alignment of two augmented views, uniformity, Wasserstein
uniformity and effective rank (entropy, not centered), named "test_projector_uniformity" and so on.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import jax.numpy as jnp

from spectral_jax import metrics, spectrum
from spectral_jax._arrays import unit_rows
from spectral_jax.evaluation import spread
from spectral_jax.evaluation.alignment import LAYERS
from spectral_jax.studies.cases import scores_of_frozen
from spectral_jax.training.loop import alike, frozen
from spectral_jax.training.state import variables
from spectral_jax.training.step import named

if TYPE_CHECKING:
  from spectral_jax.training.run import Run
  from spectral_jax.training.state import State

MEASURES = ("alignment", "uniformity", "wasserstein_uniformity", "effective_rank")
VIEWED = 512  # test images whose two views are compared


def measures_of(run: Run, state: State) -> dict[str, float]:
  """The scores of `cases.scores_of`, these measures, and for several learners what the loop says of their alignment."""
  found, labels = frozen(run, state, run.config.eval.train_limit)
  views = _views(run, state)
  measures = {name: {**_of_sphere(parts["test"]), **_of_views(run, state.learners[name], views)}
              for name, parts in found.items()}
  return scores_of_frozen(run, found, labels) | named(measures) | alike(run, state, found, labels)


def _of_sphere(layers):
  measured = {}
  for layer, z in zip(LAYERS, layers):
    z = unit_rows(z)
    measured |= {f"test_{layer}_uniformity": metrics.uniformity(z),
                 f"test_{layer}_wasserstein_uniformity": metrics.wasserstein_uniformity(z),
                 f"test_{layer}_effective_rank": spectrum.effective_rank(z)}
  return {key: float(value) for key, value in measured.items()}


def _views(run, state):
  """Two views of test images as a training step would make them; streamed images are not augmented here: None."""
  test = run.dataset.test
  if not test.resident:
    return None
  index = jnp.asarray(spread(test.size, VIEWED))
  return run.program.views(state, {"index": index}, jnp.asarray(test.images()))


def _of_views(run, learner, views):
  if views is None:
    return {}
  u, v = (run.program.encode(variables(learner), view) for view in views)
  return {f"test_{layer}_alignment": float(metrics.alignment(a, b)) for layer, a, b in zip(LAYERS, u, v)}
