"""What a run says first and last, and the summary and pictures that it leaves."""

import json
from typing import NamedTuple

import jax
import numpy as np

from spectral_jax import spectrum
from spectral_jax._arrays import unit_rows
from spectral_jax.evaluation import score, split_features, split_pixels, spread
from spectral_jax.training import gallery
from spectral_jax.training.logs import images_per_second
from spectral_jax.training.state import variables
from spectral_jax.training.workdir import write_json

SUMMARY = "summary.json"
ROWS = (("knn_accuracy", "k nearest neighbours"), ("linear_accuracy", "linear probe"),
        ("five_shot_accuracy", "{shots} labels a class"))
FILES = (("summary.json", "these figures"),
         ("curves.png", "loss, accuracy and ranks over training"),
         ("augmented_pairs.png", "two views of some images"),
         ("spectrum.png", "eigenvalues of the embedding"),
         ("neighbours.png", "nearest training images"),
         ("metrics.jsonl", "every logged step; TensorBoard: --logdir of this folder"),
         ("config.json", "the config as it was resolved"),
         ("checkpoints", "the last few and the best"))


def opening(run, folder):
  config, data, devices = run.config, run.dataset, run.mesh.devices.ravel()
  parameters = sum(x.size for x in jax.tree.leaves(jax.eval_shape(run.init).params))
  shape, way = "x".join(map(str, data.image_shape)), "resident" if data.resident else "streamed"
  print(
      f"{data.name}: {data.train.size:,} training and {data.test.size:,} test images of {len(data.class_names)} "
      f"classes, {shape}, {way}\n"
      f"{config.model.encoder} with {parameters:,} parameters, {config.loss.name}, batches of {config.batch_size}, "
      f"{run.total_steps:,} steps on {len(devices)} {devices[0].device_kind} device{'s'[:len(devices) > 1]}\n"
      f"Everything goes to {folder}")
  skipped = len(data.train.skipped) + len(data.test.skipped)
  if skipped:
    print(f"{skipped} undecodable images were left out, as config.data.on_undecodable='skip' asks: "
          + ", ".join((data.train.skipped + data.test.skipped)[:5]))


def finished_before(run, folder):
  summary = json.loads((folder / SUMMARY).read_text())
  print_table(summary, run.config.eval.shots, folder)
  print("This run had finished before. Give another --workdir to train anew.")
  return summary


def closing(run, state, host, folder):
  """Scores the representation and its two baselines, writes summary.json and the pictures. Returns the summary."""
  print("Scoring the representation ...")
  data, limits = run.dataset, run.config.eval
  every = spread(data.train.size, limits.train_limit)
  some = every[spread(len(every), limits.baseline_limit)]
  test = spread(data.test.size, limits.test_limit)
  trained = describe(run, state, every, test)
  initial = describe(run, run.init(), some, test)
  pixels = [split_pixels(split, chosen) for split, chosen in ((data.train, some), (data.test, test))]
  summary = {
      **_score(run, every, trained.train, test, trained.test),
      "raw_pixels": _score(run, some, pixels[0], test, pixels[1]),
      "random_init": _score(run, some, initial.train, test, initial.test),
      # A run of one interval has no time without compilation.
      "images_per_second": images_per_second(host, run.config.batch_size)
                           or run.total_steps * run.config.batch_size / host["seconds"],
      "train_seconds": host["seconds"],
      "final_loss": host["last"]["loss"],
      "effective_rank": float(spectrum.effective_rank(trained.embedding)),
  }
  gallery.draw(run, state, folder, summary, trained, initial)
  write_json(folder / SUMMARY, summary)
  print_table(summary, run.config.eval.shots, folder)
  return summary


class Described(NamedTuple):
  """Frozen features of the examples that a run is scored with."""
  train_indices: np.ndarray
  test_indices: np.ndarray
  train: jax.Array         # (m, f) features of training examples
  test: jax.Array          # (n, f) features of the test set
  embedding: jax.Array     # (n, p) unit rows after the projector, of the test set


def describe(run, state, train_indices, test_indices):
  """Frozen features by the encoder in `state`."""
  options = {"batch_size": run.config.eval.batch_size, "mesh": run.mesh}
  train, _ = split_features(run.encode, variables(state), run.dataset.train, train_indices, **options)
  test, projected = split_features(run.encode, variables(state), run.dataset.test, test_indices, **options)
  return Described(train_indices, test_indices, train, test, unit_rows(projected))


def _score(run, train_indices, train, test_indices, test):
  data = run.dataset
  return score(train, data.train.labels[train_indices], test, data.test.labels[test_indices],
               num_classes=len(data.class_names), config=run.config.eval)


def print_table(summary, shots, folder):
  columns = ((summary, "trained"), (summary["raw_pixels"], "raw pixels"), (summary["random_init"], "random init"))
  print("\n" + " " * 24 + "".join(f"{name:>13}" for _, name in columns))
  for key, name in ROWS:
    print(f"{name.format(shots=shots):24}" + "".join(f"{scores[key]:13.4f}" for scores, _ in columns))
  print(
      f"\n{summary['train_seconds']:.0f} s of training, {summary['images_per_second']:,.0f} images/s, "
      f"final loss {summary['final_loss']:.4f}, effective rank {summary['effective_rank']:.1f}\n\n{folder}")
  for name, meaning in FILES:
    if (folder / name).exists():
      print(f"  {name:21} {meaning}")
