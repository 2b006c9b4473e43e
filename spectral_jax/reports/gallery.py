"""Chooses what the pictures of a run show, draws them, and keeps what they show for the report."""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING

import jax
import numpy as np

from spectral_jax import preemption, spectrum
from spectral_jax._arrays import unit_rows
from spectral_jax.data.decode import resize
from spectral_jax.evaluation import split_images, spread
from spectral_jax.mesh import local
from spectral_jax.reports import pictures
from spectral_jax.workdir.folder import is_lead, whole
from spectral_jax.workdir.logs import read_metrics

if TYPE_CHECKING:
  import pathlib
  from collections.abc import Mapping, Sequence
  from typing import Any, TypeAlias

  from jaxtyping import Array, Float, Int, UInt8

  from spectral_jax.data import Dataset
  from spectral_jax.reports.summary import Described
  from spectral_jax.training.run import Run
  from spectral_jax.training.state import State

  # Queries, their labels, the images near to each, the labels of these, and the names of classes.
  Near: TypeAlias = tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, Sequence[str]]

PAIRS, QUERIES, NEIGHBORS = 10, 8, 8
ARRAYS = "report.npz"
# Points of the map of the test set; side of the small images that the report shows.
POINTS, SIDE = 600, 64


def draw(run: Run, state: State, folder: pathlib.Path, summary: Mapping[str, Any],
         described: Mapping[str, Described]) -> None:
  """Writes the four pictures and the arrays of the report.

  `described` maps every learner and "random_init" to its `summary.Described`, the main learner first.
  """
  trained, initial = next(iter(described.values())), described["random_init"]
  # Every process reads and computes, and the lead draws.
  shown, near = pairs(run, state), neighbors(run.dataset, trained)
  if not is_lead():
    return
  spectra = {
      name: (spectrum.eigenvalues(z), float(spectrum.effective_rank(z))) for name, z in (
          ("embedding, after the projector", trained.embedding),
          ("features, before it", unit_rows(trained.test)),
          ("embedding of the untrained model", initial.embedding))}
  pictures.save_curves(folder / "curves.png", read_metrics(folder), summary["raw_pixels"]["knn_accuracy"])
  pictures.save_spectrum(folder / "spectrum.png", spectra)
  pictures.save_pairs(folder / "augmented_pairs.png", *shown)
  pictures.save_neighbors(folder / "neighbors.png", *near)
  maps = {name: of_map(one, run.dataset.test.labels) for name, one in described.items() if name != "random_init"}
  save_arrays(folder / ARRAYS, spectra, shown, near, maps)


def of_map(described: Described, labels: Int[np.ndarray, " m"]) -> tuple[np.ndarray, np.ndarray, float]:
  """Coordinates `(n, 2)` on the first two principal components of the test features, their labels, and their share.

  The sign of a component is that which makes its largest loading positive.
  """
  some = spread(len(described.test), POINTS)
  z = np.asarray(unit_rows(described.test), np.float64)[some]
  left, values, right = np.linalg.svd(z - z.mean(axis=0), full_matrices=False)
  signs = np.sign(right[np.arange(len(right)), np.abs(right).argmax(axis=1)])
  coordinates = np.zeros((len(z), 2))
  count = min(2, len(values))
  coordinates[:, :count] = (left * values * signs)[:, :count]
  share = float((values[:2] ** 2).sum() / max((values ** 2).sum(), 1e-30))
  return coordinates.astype(np.float32), labels[described.test_indices[some]], share


def save_arrays(path: pathlib.Path, spectra: Mapping[str, tuple[Array, float]], shown: tuple[np.ndarray, ...],
                near: Near, maps: Mapping[str, tuple[np.ndarray, np.ndarray, float]]) -> None:
  """Keeps what the report shows, images at most `SIDE` pixels wide."""
  queries, query_labels, neighbors, neighbor_labels, class_names = near
  arrays = {"images": small(shown[0]), "views": small(shown[1]), "queries": small(queries),
            "neighbors": small(neighbors),
            "query_labels": query_labels, "neighbor_labels": neighbor_labels, "class_names": np.array(class_names, str),
            "spectra": np.array(list(spectra), str), "maps": np.array(list(maps), str),
            "ranks": np.array([rank for _, rank in spectra.values()])}
  for i, (values, _) in enumerate(spectra.values()):
    values = np.asarray(values, np.float32)
    arrays[f"spectrum_{i}"] = values / max(float(values.sum()), 1e-30)
  for i, (coordinates, labels, share) in enumerate(maps.values()):
    arrays |= {f"map_{i}": coordinates, f"map_labels_{i}": labels, f"map_share_{i}": np.float32(share)}
  with whole(path) as part, open(part, "wb") as file:
    np.savez_compressed(file, **arrays)  # pyright: ignore[reportArgumentType]  # of names that are none of its own


def small(images: Float[np.ndarray, "*b h w c"]) -> UInt8[np.ndarray, "*b s s c"]:
  """Images `(..., h, w, c)` in [0, 1] as uint8, at most `SIDE` pixels wide."""
  pixels = np.round(np.clip(images, 0, 1) * 255).astype(np.uint8)
  if pixels.shape[-2] <= SIDE:
    return pixels
  flat = [resize(image, SIDE) for image in pixels.reshape(-1, *pixels.shape[-3:])]
  return np.stack(flat).reshape(*pixels.shape[:-3], SIDE, SIDE, pixels.shape[-1])


def pairs(run: Run, state: State) -> tuple[Float[np.ndarray, "n h w c"], Float[np.ndarray, "n 2 h w c"]]:
  """Some training images and the two views that the run's next step would make of them."""
  chosen = spread(run.dataset.train.size, run.config.batch_size)
  batch = next(iter(run.feed(chosen[None], int(state.step))))
  views = np.stack([local(view) for view in run.views(state, batch)], axis=1)
  shown = spread(len(chosen), PAIRS)
  return split_images(run.dataset.train, chosen[shown]) / 255, views[shown]


def neighbors(data: Dataset, trained: Described) -> Near:
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


@functools.partial(jax.jit, static_argnums=2)
def _nearest(train, test, k):
  return jax.lax.top_k(unit_rows(test) @ unit_rows(train).T, k)[1]


def nearest_rows(train: Float[Array, "m d"], test: Float[Array, "n d"], k: int,
                 rows: int = 256) -> Int[np.ndarray, "n k"]:
  """Indices `(n, k)` of the training features nearest to each test feature, some rows at a time."""
  rows, found = min(rows, len(test)), []
  filled = np.pad(np.asarray(test), ((0, -len(test) % rows), (0, 0)))
  for i in range(0, len(filled), rows):
    preemption.check()
    found.append(np.asarray(_nearest(train, filled[i:i + rows], k)))
  return np.concatenate(found)[:len(test)]
