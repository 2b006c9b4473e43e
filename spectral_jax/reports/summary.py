"""What a run says first and last, and the summary that it leaves."""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING, NamedTuple

import jax
import numpy as np

from spectral_jax import spectrum
from spectral_jax._arrays import unit_rows
from spectral_jax.evaluation import SCORES, few_labels, score, split_pixels, spread
from spectral_jax.reports import gallery, pairs, report
from spectral_jax.training.state import variables
from spectral_jax.workdir import checkpoints
from spectral_jax.workdir.folder import SUMMARY, is_lead, read_json, worst, write_json
from spectral_jax.workdir.logs import images_per_second

if TYPE_CHECKING:
  import pathlib
  from collections.abc import Mapping
  from typing import Any

  from spectral_jax.training.run import Run
  from spectral_jax.training.state import Learner, State

SCORED = "scores.json"  # what has been scored so far, should the run be stopped meanwhile
REPORT = "report.html"
FILES = ((REPORT, "all of it on one page"),
         ("summary.json", "these figures"),
         ("curves.png", "loss, accuracy and ranks over training"),
         ("alignment.png", "how alike the learners are, over training, and the bounds"),
         ("pairs.png", "how alike every two learners are"),
         ("augmented_pairs.png", "two views of some images"),
         ("spectrum.png", "eigenvalues of the embedding"),
         ("neighbors.png", "nearest training images"),
         ("metrics.jsonl", "every logged step; events.* hold the same for TensorBoard (pip install tensorboard)"),
         ("config.json", "the config as it was resolved"),
         ("checkpoints", "the last few and the best"))


def opening(run: Run, folder: pathlib.Path) -> None:
  """Prints what will be trained, on which data and devices, and where the results go."""
  if not is_lead():
    return
  config, data, devices = run.config, run.dataset, run.mesh.devices.ravel()
  learners = jax.eval_shape(run.program.init, 0).learners
  parameters = sum(x.size for x in jax.tree.leaves(next(iter(learners.values())).params))
  shape, way = "x".join(map(str, data.image_shape)), "resident" if data.resident else "streamed"
  losses = ", ".join(learners) if len(learners) > 1 else config.loss.name
  print(
      f"{data.name}: {data.train.size:,} training and {data.test.size:,} test images of {len(data.class_names)} "
      f"classes, {shape}, {way}\n"
      f"{config.model.encoder} with {parameters:,} parameters, {losses}, batches of {config.batch_size}, "
      f"{run.total_steps:,} steps on {len(devices)} {devices[0].device_kind} device{'s'[:len(devices) > 1]}"
      f"{_processes()}\n"
      f"Everything goes to {folder}")
  skipped = len(data.train.skipped) + len(data.test.skipped)
  if skipped:
    print(f"{skipped} undecodable image{'s were' if skipped > 1 else ' was'} left out, as "
          "config.data.on_undecodable='skip' asks: "
          + ", ".join((data.train.skipped + data.test.skipped)[:5]))


def _processes():
  return f" of {jax.process_count()} processes" if jax.process_count() > 1 else ""


def finished_before(run: Run, folder: pathlib.Path) -> dict[str, Any]:
  """Repeats the closing table of a run that needs nothing more."""
  summary = read_json(folder / SUMMARY)
  print_table(summary, run.config.eval.shots, folder)
  print(f"This run was finished before. Give another --workdir to train again; to go on from its weights with a new "
        f"schedule add --config.init_from={folder}")
  return summary


def closing(run: Run, state: State, host: Mapping[str, Any], folder: pathlib.Path) -> dict[str, Any]:
  """Scores the representations and their baselines, writes summary.json and the pictures. Returns the summary."""
  if is_lead():
    print("Scoring the representation ...")
  data, limits = run.dataset, run.config.eval
  every = spread(data.train.size, limits.train_limit)
  some = every[spread(len(every), limits.baseline_limit)]
  test = spread(data.test.size, limits.test_limit)

  @functools.cache
  def described(name):
    learner = run.init().learners[run.program.main] if name == "random_init" else state.learners[name]
    return describe(run, learner, some if name == "random_init" else every, test)

  def of_pixels():
    device = jax.local_devices()[0]  # where features lie, lest probes of as wide ones be compiled again
    train, tested = (jax.device_put(split_pixels(split, chosen), device)
                     for split, chosen in ((data.train, some), (data.test, test)))
    return _score(run, some, train, test, tested)

  def of_network(name):
    found = described(name)
    scores = _score(run, found.train_indices, found.train, test, found.test)
    return {**scores, "effective_rank": float(spectrum.effective_rank(found.embedding))}

  parts = {name: functools.partial(of_network, name) for name in (*state.learners, "random_init")}
  scored = _scored(folder, {**parts, "raw_pixels": of_pixels})
  first = run.program.main
  loss = {name: value for name, value in host["last"].items() if name.rsplit("/", 1)[-1] == "loss"}
  with checkpoints.open_checkpoints(folder, read_only=True) as manager:
    best = checkpoints.best(manager) or (None, None)
  summary = {
      **scored[first],
      "raw_pixels": scored["raw_pixels"], "random_init": scored["random_init"],
      # A run of one interval has no time without compilation.
      "images_per_second": images_per_second(host, run.config.batch_size)
                           or run.total_steps * run.config.batch_size / host["seconds"],
      "images_per_second_with_compilation": not images_per_second(host, run.config.batch_size),
      "train_seconds": host["seconds"],
      "final_loss": loss.get("loss", loss.get(f"{first}/loss")),
      "best_step": best[0], "best_knn_accuracy": best[1],
  }
  if len(state.learners) > 1:
    summary["learners"] = {name: {**scored[name], "final_loss": loss[f"{name}/loss"]} for name in state.learners}
    summary |= pairs.summary(folder)
    if is_lead():
      pairs.draw(folder, summary)
  names = sorted(state.learners, key=lambda name: name != first)
  gallery.draw(run, state, folder, summary, {name: described(name) for name in (*names, "random_init")})
  if is_lead():
    write_json(folder / SUMMARY, summary)
    (folder / SCORED).unlink()
    report.write(folder / REPORT, [folder])
  print_table(summary, run.config.eval.shots, folder)
  return summary


def _scored(folder, parts):
  """The scores of every part, those that an earlier start has left not made again."""
  path = folder / SCORED
  scored = read_json(path) if path.exists() else {}
  for name, part in parts.items():
    # All or none: a part has work that all share, and a shared folder may show them different things.
    if worst(name not in scored):
      scored[name] = part()
      if is_lead():
        write_json(path, scored)
  return scored


class Described(NamedTuple):
  """Frozen features of the examples that a run is scored with."""
  train_indices: np.ndarray
  test_indices: np.ndarray
  train: jax.Array         # (m, f) features of training examples
  test: jax.Array          # (n, f) features of the test set
  embedding: jax.Array     # (n, p) unit rows after the projector, of the test set


def describe(run: Run, learner: Learner, train_indices: np.ndarray, test_indices: np.ndarray) -> Described:
  """Frozen features by a learner's encoder."""
  train, _ = run.features(variables(learner), run.dataset.train, train_indices)
  test, projected = run.features(variables(learner), run.dataset.test, test_indices)
  return Described(train_indices, test_indices, train, test, unit_rows(projected))


def _score(run, train_indices, train, test_indices, test):
  data = run.dataset
  return score(train, data.train.labels[train_indices], test, data.test.labels[test_indices],
               num_classes=len(data.class_names), config=run.config.eval)


def print_table(summary: Mapping[str, Any], shots: int, folder: pathlib.Path) -> None:
  """Prints the scores beside their baselines, and what lies where."""
  if not is_lead():
    return
  trained = summary.get("learners", {"trained": summary})
  columns = {**trained, "raw pixels": summary["raw_pixels"], "random init": summary["random_init"]}
  widths = {name: max(13, len(name) + 2) for name in columns}
  print("\n" + " " * 24 + "".join(f"{name:>{width}}" for name, width in widths.items()))
  for one in SCORES:
    title = few_labels(shots) if one.key == "few_shot_accuracy" else one.title
    print(f"{title:24}" + "".join(f"{columns[name][one.key]:{width}.4f}" for name, width in widths.items()))
  if "pairs" in summary:
    pairs.print_table(summary)
  compiling = "" if summary["images_per_second_with_compilation"] else " without it"
  best = "" if summary["best_step"] is None else (
      f"\nBest kNN accuracy during training: {summary['best_knn_accuracy']:.4f}, at step {summary['best_step']:,}; its "
      "checkpoint is kept.")
  print(
      f"\n{summary['train_seconds']:.0f} s of training, compilation included; "
      f"{summary['images_per_second']:,.0f} images/s{compiling}; final loss {summary['final_loss']:.4f}, "
      f"effective rank of the test embedding {summary['effective_rank']:.1f}{best}"
      f"\n\n{folder}")
  for name, meaning in FILES:
    if (folder / name).exists():
      print(f"  {name:21} {meaning}")
