"""Decides the batches of the coming epoch while the present one trains.

The batches of epoch e + 1 are chosen during epoch e, in a thread, from the bank as it was at the beginning of e: a
function of the seed, the epoch and that bank. The bank is made anew every `bank.refresh_epochs` epochs, the first
time after one epoch of training; until then batches are random. Tables and bank go into every checkpoint.
"""

import concurrent.futures
import time

import jax
import jax.numpy as jnp
import numpy as np

from spectral_jax import spectrum
from spectral_jax.selection import epoch_batches
from spectral_jax.training import bank as banks
from spectral_jax.training.batches import Tables, epoch_indices

# Of the embeddings' effective ranks the one that the rules work on.
RANK = "participation"


class Planner:
  """Hands out the index table of each epoch; `tables` is what a checkpoint keeps."""

  def __init__(self, run, tables, log):
    self._run, self._tables, self._log = run, tables, log
    self._pool = concurrent.futures.ThreadPoolExecutor(1, "selection")
    self._coming = None
    self._refresh = banks.make_refresh(run) if selects(run.config) else None
    self._spent, self._began, self._refreshing = 0.0, log.host()["seconds"], {}

  def __enter__(self):
    return self

  def __exit__(self, *error):
    self._pool.shutdown(cancel_futures=True)

  def table(self, epoch, step, state):
    """The index table of `epoch`; at its first step, with `state` after `step` steps, the next table is begun."""
    if self._tables.epoch < epoch:
      present = self.tables(step).following
      bank = self._bank(epoch, state)
      self._tables = Tables(epoch, present, None, bank)
      self._coming = self._pool.submit(self._choose, epoch + 1, bank)
    return self._tables.present

  def tables(self, step):
    """The tables of the present and of the next epoch, and the bank; waits for the choice if it still runs."""
    if self._coming is not None:
      following, report = self._result()
      self._coming = None
      self._tables = self._tables._replace(following=following)
      if report:
        # One line for both, written before any checkpoint of this step: a resumed run neither repeats nor lacks it.
        report |= self._refreshing
        self._refreshing = {}
        self._spent += report["selection_seconds"]
        self._log.write(step, {**report, **self._share()})
    return self._tables

  def _result(self):
    try:
      return self._coming.result()
    except ValueError:
      self._log.flush()  # embeddings that are not finite come of a loss that is not, which says more
      raise

  def _bank(self, epoch, state):
    if not self._is_selected(epoch + 1) or (epoch - 1) % self._run.config.bank.refresh_epochs:
      return self._tables.bank
    jax.block_until_ready(state)  # steps still under way are not the bank's time
    started = time.perf_counter()
    bank = jax.block_until_ready(self._refresh(state))
    seconds = time.perf_counter() - started
    self._spent += seconds
    self._refreshing = {"refresh_seconds": seconds}
    return bank

  def _choose(self, epoch, bank):
    if self._is_selected(epoch):
      return chosen_table(self._run, epoch, bank)
    config = self._run.config
    return epoch_indices(config.seed, epoch, self._run.dataset.train.size, config.batch_size), None

  def _is_selected(self, epoch):
    """Whether any step of `epoch` will be made with chosen batches: the last one has no successor."""
    return selects(self._run.config) and epoch >= 2 and epoch * self._run.steps_per_epoch < self._run.total_steps

  def _share(self):
    trained = self._log.host()["seconds"] - self._began
    return {"selection_share": self._spent / trained} if trained > 0 else {}


def chosen_table(run, epoch, bank):
  """Returns the index table that the config's rule makes of a bank, and what there is to report about it."""
  config, rows = run.config, banks.on_one_device(run, bank)
  started = time.perf_counter()
  key = jax.random.fold_in(jax.random.key(config.seed), epoch)
  table = np.asarray(epoch_batches(key, rows, config.batch_size, **selection_options(config)))
  seconds = time.perf_counter() - started
  uniform = epoch_indices(config.seed, epoch, run.dataset.train.size, config.batch_size)
  return table, {"selection_seconds": seconds, "selected_rank": float(_mean_rank(rows, table)),
                 "random_rank": float(_mean_rank(rows, uniform))}


def selects(config):
  """Whether batches are chosen by their embeddings."""
  return config.selection.rule != "random"


def first_tables(run):
  """The tables of a run's beginning: two epochs of random batches, and an empty bank where one will be kept."""
  config, size = run.config, run.dataset.train.size
  present, following = (epoch_indices(config.seed, epoch, size, config.batch_size) for epoch in (0, 1))
  return Tables(0, present, following, banks.empty_bank(run) if selects(config) else None)


def selection_options(config):
  """The keywords of `epoch_batches` from the config's `selection` section; 0 candidates are all."""
  options = config.selection.to_dict()
  options["candidates"] = options["candidates"] or None
  return options


def check_selection(config, size):
  """Raises ValueError for a selection that could not choose batches from `size` examples; computes nothing."""
  if config.bank.refresh_epochs < 1:
    raise ValueError(f"config.bank.refresh_epochs must be at least 1, got {config.bank.refresh_epochs}")
  if not 0 <= config.bank.momentum < 1:
    raise ValueError(f"config.bank.momentum must lie in [0, 1), got {config.bank.momentum}; 0 keeps no moving average")
  if config.bank.dtype not in ("float32", "bfloat16"):
    raise ValueError(f"config.bank.dtype must be 'float32' or 'bfloat16', got {config.bank.dtype!r}")
  if not selects(config):
    return
  bank = jax.ShapeDtypeStruct((size, config.model.projector_dim), config.bank.dtype)
  key = jax.eval_shape(lambda: jax.random.key(0))
  options = selection_options(config)
  try:
    jax.eval_shape(lambda key, bank: epoch_batches(key, bank, config.batch_size, **options), key, bank)
  except (TypeError, ValueError) as error:
    raise ValueError(f"config.selection: {error}") from error


@jax.jit
def _mean_rank(rows, table):
  """The mean over batches of their effective rank in the bank."""
  of_one = lambda batch: spectrum.effective_rank(rows[batch].astype(jnp.float32), kind=RANK)
  return jnp.mean(jax.lax.map(of_one, table))
