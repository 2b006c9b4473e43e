"""The training loop: steps until the last one, with looks, checkpoints and a place to stop in between."""

from __future__ import annotations

import pathlib
import time
from typing import TYPE_CHECKING

import jax
import jax.numpy as jnp

from spectral_jax import preemption
from spectral_jax._errors import RunError
from spectral_jax.distributed import together
from spectral_jax.evaluation import alignment, spread
from spectral_jax.metrics import knn_accuracy
from spectral_jax.training.batches.planner import Planner, first_tables
from spectral_jax.training.batches.tables import of_stored, stored
from spectral_jax.training.diagnostics import drift_bounds, loss_gaps
from spectral_jax.training.start import check_start
from spectral_jax.training.state import State, variables
from spectral_jax.training.step import named
from spectral_jax.workdir import checkpoints
from spectral_jax.workdir.folder import is_lead
from spectral_jax.workdir.logs import Diverged, Log

if TYPE_CHECKING:
  from collections.abc import Callable, Mapping
  from typing import Any, TypeAlias

  import numpy as np
  from orbax.checkpoint import CheckpointManager

  from spectral_jax.training.run import Run

  # Scores of a state, with a "knn_accuracy" that chooses the best checkpoint.
  Evaluate: TypeAlias = Callable[[Run, State], dict[str, float]]


def check_beginning(run: Run, workdir: str | pathlib.Path, *, restart: bool = False) -> None:
  """Raises ConfigError where a run that has no checkpoint yet cannot begin as `config.init_from` says.

  It is called before the workdir is claimed, so that the corrected command finds the folder free.
  """
  begun = (pathlib.Path(workdir).expanduser() / checkpoints.DIRECTORY).is_dir()
  if run.config.init_from and (restart or not begun):
    check_start(jax.eval_shape(run.program.init, 0), run.config)


def train(run: Run, folder: pathlib.Path, evaluate: Evaluate | None = None) -> tuple[State, dict[str, Any]]:
  """Makes the steps that are left. Returns the last state and the numbers that are counted along.

  Args:
    run: from `open_run`.
    folder: a workdir that this process has claimed.
    evaluate: `(run, state) -> scores`, named numbers with a "knn_accuracy" that chooses the best checkpoint; by default
      `nearest_neighbors`.

  Raises:
    RunError: a loss is not finite, or no checkpoint can be read.
    preemption.Preempted: the run was asked to stop and has saved what it had.
  """
  config = run.config
  state, tables = run.init(), first_tables(run.plan, run.bank)
  host = {"seconds": 0.0, "processor_seconds": 0.0, "timed": [0, 0.0], "last": {}}
  with checkpoints.open_checkpoints(folder, config.checkpoint.keep) as manager:
    restored = checkpoints.restore_latest(manager, _content(state, tables))
    if restored:
      content, host = restored
      state, tables = State(**content["state"]), of_stored(content["tables"])
      if is_lead():
        print(f"Going on from the checkpoint of step {int(state.step)}.")
    elif config.init_from:
      state = run.start()
    log = Log(folder, int(state.step), run.total_steps, config, host)
    try:
      with together(alike=(Diverged,)), Planner(run.plan, run.bank, tables, log) as planner:
        state = steps(run, state, planner, log, manager, evaluate or nearest_neighbors)
    except Diverged as error:
      raise RunError(_advice(error, config, manager)) from None
    finally:
      log.close()
  return state, log.host()


def steps(run: Run, state: State, planner: Planner, log: Log, manager: CheckpointManager, evaluate: Evaluate) -> State:
  """The loop itself. Nothing in it waits for the device, but evaluations and checkpoints."""
  config, step, saved = run.config, int(state.step), None

  def look(step, state):
    """Evaluates and saves, after `step` steps, what is due there."""
    nonlocal saved
    evaluates = is_due(step, run, config.eval_every_epochs * run.steps_per_epoch)
    if not (evaluates or is_due(step, run, config.checkpoint.every_steps)):
      return
    tables = planner.tables(step)
    log.flush()  # raises where a loss is not finite, so that no such state is ever saved
    scores = _evaluated(run, state, log, step, evaluate) if evaluates else None
    checkpoints.save(manager, step, _content(state, tables), log.host(), scores)
    saved = step
    log.start()

  try:
    log.start()
    if log.was_interrupted:
      look(step, state)  # it was stopped before it could
    while step < run.total_steps:
      epoch, done = divmod(step, run.steps_per_epoch)
      table = planner.batches_of(epoch, step, state)
      for batch in run.feed(table[done:done + run.total_steps - step], step):
        if preemption.asked():
          raise preemption.Preempted
        observed = config.diagnostics_every and step % config.diagnostics_every == 0
        with jax.transfer_guard("disallow"):  # a hidden copy in every step would cost time unnoticed
          state, metrics = run.step(state, batch, observed)
        step += 1
        log.add(step, metrics)
        look(step, state)
  except preemption.Preempted:
    host = log.interrupted()
    if step and step != saved:
      checkpoints.save(manager, step, _content(state, planner.tables_now()), host, None)
    raise
  return state


def is_due(step: int, run: Run, every: int) -> bool:
  return step == run.total_steps or (every > 0 and step % every == 0)


def _evaluated(run, state, log, step, evaluate):
  started = time.perf_counter()
  with log.doing("evaluating"):
    scores = evaluate(run, state)
  log.write(step, {**scores, "trained_seconds": log.seconds(), "trained_processor_seconds": log.processor_seconds(),
                   "evaluation_seconds": time.perf_counter() - started})
  return scores


def nearest_neighbors(run: Run, state: State) -> dict[str, float]:
  """The accuracy that is followed during training, of every learner; of several also how alike they are."""
  limits = run.config.eval
  found, labels = frozen(run, state, limits.knn_limit)
  labels = jax.tree.map(jnp.asarray, labels)
  scores = {name: {"knn_accuracy": float(knn_accuracy(
      parts["train"][0], labels["train"], parts["test"][0], labels["test"], k=limits.knn_k))}
      for name, parts in found.items()}
  # The main learner's accuracy stands for the run.
  return named(scores) | alike(run, state, found, labels) | {"knn_accuracy": scores[run.program.main]["knn_accuracy"]}


def frozen(run: Run, state: State, train_limit: int) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
  """`({learner: {part: (features, projections)}}, {part: labels})` of "train", at most so many images, and "test"."""
  splits = {"train": run.dataset.train, "test": run.dataset.test}
  chosen = {"train": spread(splits["train"].size, train_limit),
            "test": spread(splits["test"].size, run.config.eval.test_limit)}
  found = {name: {part: run.features(variables(learner), splits[part], chosen[part]) for part in splits}
           for name, learner in state.learners.items()}
  return found, {part: splits[part].labels[chosen[part]] for part in splits}


def alike(run: Run, state: State, found: Mapping[str, Any], labels: Mapping[str, np.ndarray]) -> dict[str, float]:
  """How alike the learners are, beside the bounds on it; of the features and labels that `evaluation.alignment` takes.

  {} for a learner alone.
  """
  if len(found) == 1:
    return {}
  params = {name: learner.params["model"] for name, learner in state.learners.items()}
  return alignment(found, labels, params) | drift_bounds(run, int(state.step)) | loss_gaps(run, state)


def _content(state, tables):
  """What a checkpoint holds."""
  return {"state": state._asdict(), "tables": stored(tables)}


def _advice(error, config, manager):
  good = manager.latest_step()
  kept = f"The last good checkpoint is step {good} in {manager.directory}." if good is not None else \
      "No checkpoint had been written yet."
  temperature = "" if config.loss.temperature is None else f" (now {config.loss.temperature})"
  return (
      f"Training stopped: {error}. {kept}\n"
      "The same command would do the same again. Likely knobs, in a new --workdir:\n"
      f"  --config.optimizer.learning_rate lower (now {config.optimizer.learning_rate} per 256 images)\n"
      f"  --config.optimizer.warmup_epochs longer (now {config.optimizer.warmup_epochs})\n"
      f"  --config.loss.temperature higher{temperature}\n"
      f"  --config.model.dtype=float32 (now {config.model.dtype})")
