"""The main job: train, look now and then, leave everything in one folder."""

import time

import jax

from spectral_jax.data import open_dataset
from spectral_jax.evaluation import split_features, spread
from spectral_jax.metrics import knn_accuracy
from spectral_jax.training import checkpoints, report
from spectral_jax.training.checks import check_batch, check_config
from spectral_jax.training.feed import feed
from spectral_jax.training.logs import Diverged, Log
from spectral_jax.training.mesh import make_mesh
from spectral_jax.training.planner import Planner, check_selection, first_tables
from spectral_jax.training.setup import prepare
from spectral_jax.training.state import variables
from spectral_jax.training.workdir import claim, disk_errors


def main_job(config, workdir):
  """Trains and evaluates what `config` describes, or goes on with it where `workdir` holds a part of it.

  Returns:
    The content of `summary.json`.
  """
  check_config(config)
  mesh = make_mesh(config.model_parallel)
  dataset = open_dataset(config.data)
  check_batch(config, dataset.train.size, mesh)
  check_selection(config, dataset.train.size)
  run = prepare(config, dataset, mesh)
  with claim(workdir, config) as folder, disk_errors(folder):
    report.opening(run, folder)
    if (folder / report.SUMMARY).exists():
      return report.finished_before(run, folder)
    state, host = train(run, folder)
    return report.closing(run, state, host, folder)


def train(run, folder, evaluate=None):
  """Makes the steps that are left. Returns the last state and the numbers that are counted along.

  `evaluate(run, state, log, step)` returns the scores that choose the best checkpoint; by default `nearest_neighbours`.
  """
  config = run.config
  state, tables = run.init(), first_tables(run)
  host = {"seconds": 0.0, "timed": [0, 0.0], "last": {}}
  with checkpoints.open_checkpoints(folder, config.checkpoint) as manager:
    restored = checkpoints.restore_latest(manager, state, tables)
    if restored:
      state, tables, host = restored
      print(f"Going on from the checkpoint of step {int(state.step)}.")
    log = Log(folder, int(state.step), run.total_steps, config, host)
    try:
      with Planner(run, tables, log) as planner:
        state = steps(run, state, planner, log, manager, evaluate or nearest_neighbours)
    except Diverged as error:
      raise FloatingPointError(_advice(error, config, manager)) from None
    finally:
      log.close()
  return state, log.host()


def steps(run, state, planner, log, manager, evaluate):
  """The loop itself. Nothing in it waits for the device, but evaluations and checkpoints."""
  config, step = run.config, int(state.step)
  log.start()
  while step < run.total_steps:
    epoch, done = divmod(step, run.steps_per_epoch)
    table = planner.table(epoch, step, state)
    for batch in feed(table[done:done + run.total_steps - step], step, run):
      observed = config.diagnostics_every and step % config.diagnostics_every == 0
      with jax.transfer_guard("disallow"):  # a hidden copy in every step would cost more than it shows
        state, metrics = (run.observed_step if observed else run.step)(state, batch, run.images, run.labels)
      step += 1
      log.add(step, metrics)
      evaluates = is_due(step, run, config.eval_every_epochs * run.steps_per_epoch)
      if evaluates or is_due(step, run, config.checkpoint.every_steps):
        tables = planner.tables(step)
        log.flush()  # raises where a loss is not finite, so that no such state is ever saved
        scores = evaluate(run, state, log, step) if evaluates else None
        checkpoints.save(manager, step, state, tables, log.host(), scores)
        log.start()
  return state


def is_due(step, run, every):
  return step == run.total_steps or (every > 0 and step % every == 0)


def nearest_neighbours(run, state, log, step):
  """The accuracy that is followed during training; its time is not the training's."""
  started = time.perf_counter()
  config, data = run.config, run.dataset
  options = {"batch_size": config.eval.batch_size, "mesh": run.mesh}
  chosen, tested = spread(data.train.size, config.eval.knn_limit), spread(data.test.size, config.eval.test_limit)
  train, _ = split_features(run.encode, variables(state), data.train, chosen, **options)
  test, _ = split_features(run.encode, variables(state), data.test, tested, **options)
  accuracy = float(knn_accuracy(
      train, data.train.labels[chosen], test, data.test.labels[tested], k=config.eval.knn_k))
  log.write(step, {"knn_accuracy": accuracy, "evaluation_seconds": time.perf_counter() - started})
  return {"knn_accuracy": accuracy}


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
