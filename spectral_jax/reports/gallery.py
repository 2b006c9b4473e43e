"""Chooses what the pictures of a run show and draws them."""

import jax
import numpy as np

from spectral_jax import spectrum
from spectral_jax._arrays import unit_rows
from spectral_jax.evaluation import split_images, spread
from spectral_jax.mesh import local
from spectral_jax.reports import pictures
from spectral_jax.workdir.folder import is_lead
from spectral_jax.workdir.logs import read_metrics

PAIRS, QUERIES, NEIGHBORS = 10, 8, 8


def draw(run, state, folder, summary, trained, initial):
  """Writes the four pictures; `trained` and `initial` are `summary.Described`."""
  # Every process reads and computes, and the lead draws.
  shown, near = pairs(run, state), neighbors(run.dataset, trained)
  if not is_lead():
    return
  pictures.save_curves(folder / "curves.png", read_metrics(folder), summary["raw_pixels"]["knn_accuracy"])
  pictures.save_spectrum(folder / "spectrum.png", {
      name: (spectrum.eigenvalues(z), float(spectrum.effective_rank(z))) for name, z in (
          ("embedding, after the projector", trained.embedding),
          ("features, before it", unit_rows(trained.test)),
          ("embedding of the untrained model", initial.embedding))})
  pictures.save_pairs(folder / "augmented_pairs.png", *shown)
  pictures.save_neighbors(folder / "neighbors.png", *near)


def pairs(run, state):
  """Some training images and the two views that the run's next step would make of them."""
  chosen = spread(run.dataset.train.size, run.config.batch_size)
  batch = next(iter(run.feed(chosen[None], int(state.step))))
  views = np.stack([local(view) for view in run.views(state, batch)], axis=1)
  shown = spread(len(chosen), PAIRS)
  return split_images(run.dataset.train, chosen[shown]) / 255, views[shown]


def neighbors(data, trained):
  """Test images and the training images nearest to each; up to half of them have another class among those."""
  train, test = data.train, data.test
  near = trained.train_indices[nearest_rows(trained.train, trained.test, min(NEIGHBORS, len(trained.train)))]
  labels = test.labels[trained.test_indices]
  pure = (train.labels[near] == labels[:, None]).all(axis=1)
  order = np.random.default_rng(0).permutation(len(labels))
  right, wrong = order[pure[order]], order[~pure[order]]
  # One of each class first, so that the rows differ.
  right = np.concatenate([right[np.sort(np.unique(labels[right], return_index=True)[1])], right])
  mixed = wrong[:QUERIES // 2]
  rows = np.concatenate([right[:QUERIES - len(mixed)], mixed, wrong[len(mixed):]])[:QUERIES]
  images = split_images(train, near[rows].ravel()).reshape(*near[rows].shape, *data.image_shape)
  return (split_images(test, trained.test_indices[rows]) / 255, labels[rows], images / 255, train.labels[near[rows]],
          data.class_names)


@jax.jit
def _similarity(train, test):
  return unit_rows(test) @ unit_rows(train).T


def nearest_rows(train, test, k, rows=256):
  """Indices `(n, k)` of the training features nearest to each test feature, some rows at a time."""
  blocks = [_similarity(train, test[i:i + rows]) for i in range(0, len(test), rows)]
  return np.concatenate([np.asarray(jax.lax.top_k(block, k)[1]) for block in blocks])
