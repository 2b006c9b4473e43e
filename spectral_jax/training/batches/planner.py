"""Decides the batches of the coming epoch while the present one trains.

The batches of epoch e + 1 are chosen during epoch e, in a thread, from the bank as it was at the beginning of e: a
function of the seed, the epoch and that bank. The bank is made again every `bank.refresh_epochs` epochs, the first
time after one epoch of training; until then batches are random. Batches that a user gives need no bank. Tables and bank
go into every checkpoint.
"""

from __future__ import annotations

import concurrent.futures
import time
from typing import TYPE_CHECKING, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from spectral_jax import preemption, spectrum
from spectral_jax._errors import ConfigError
from spectral_jax.mesh import of_lead
from spectral_jax.selection import epoch_batches
from spectral_jax.training.batches.given import load_reference, load_table
from spectral_jax.training.batches.tables import Tables, epoch_indices

if TYPE_CHECKING:
  from typing import Any

  from jaxtyping import Array, Float, Int

  from spectral_jax._types import Config
  from spectral_jax.training.batches.bank import Bank
  from spectral_jax.training.state import State

# Of the embeddings' effective ranks the one that the rules work on.
RANK = "participation"
# Seconds between looks at the signals while a choice is waited for.
PATIENCE = 0.1


class Plan(NamedTuple):
  """How a run's batches are chosen."""
  seed: int
  size: int
  batch_size: int
  total_steps: int
  refresh_epochs: int
  options: dict | None     # keywords of `epoch_batches`; None: batches do not depend on embeddings
  given: np.ndarray | None = None   # (epochs, steps, batch_size) a user's own tables; None: batches are random

  @property
  def steps_per_epoch(self) -> int:
    return self.size // self.batch_size

  def random_table(self, epoch: int) -> Int[np.ndarray, "s b"]:
    return epoch_indices(self.seed, epoch, self.size, self.batch_size)

  def table(self, epoch: int) -> Int[np.ndarray, "s b"]:
    """The batches of an epoch whose choice does not depend on embeddings."""
    return self.random_table(epoch) if self.given is None else self.given[epoch % len(self.given)]

  def is_selected(self, epoch: int) -> bool:
    """Whether any step of `epoch` will be made with chosen batches: the last one has no successor."""
    return self.options is not None and epoch >= 2 and epoch * self.steps_per_epoch < self.total_steps


def make_plan(config: Config, size: int, total_steps: int) -> Plan:
  """The `Plan` of a config's `selection` and `bank` sections, for a training set of `size` examples.

  Raises:
    ConfigError: the selection could not choose batches from so many examples, or would be over before it chooses any;
      or its file does not fit them.
  """
  plan = Plan(config.seed, size, config.batch_size, total_steps, config.bank.refresh_epochs,
              check_selection(config, size), load_table(config.selection, size, config.batch_size))
  if plan.options is not None and not plan.is_selected(2):
    raise ConfigError(
        f"config.selection.rule={config.selection.rule!r} would choose no batch: those of the first two epochs are "
        f"random, and the run ends with them ({total_steps:,} steps, {plan.steps_per_epoch:,} an epoch); train for "
        f"more than {2 * plan.steps_per_epoch:,} steps, or set the rule to 'random'")
  return plan


class Planner:
  """Hands out the index table of each epoch; `tables` is what a checkpoint keeps.

  Args:
    plan: a `Plan`.
    bank: a `bank.Bank`, or None where batches are random.
    tables: those to begin with.
    log: `log.write(step, values)` takes what there is to report, `log.flush()` raises where a loss is not finite, and
      `log.seconds()` is the training time so far.
  """

  def __init__(self, plan, bank, tables, log):
    self._plan, self._bank, self._tables, self._log = plan, bank, tables, log
    self._pool = concurrent.futures.ThreadPoolExecutor(1, "selection")
    self._coming = None
    self._spent, self._began, self._refreshing = 0.0, log.seconds(), {}
    if plan.given is not None and not np.array_equal(tables.present, plan.table(tables.epoch)):
      raise ConfigError(f"the index table is not the one that this run began with: epoch {tables.epoch} had other "
                        "batches. Give config.selection.table the file as it was, or another --workdir")
    if tables.following is None:
      self._begin(tables.epoch + 1, tables.bank)

  def __enter__(self):
    return self

  def __exit__(self, *error):
    self._pool.shutdown(wait=not error[0], cancel_futures=True)

  def batches_of(self, epoch: int, step: int, state: State) -> Int[np.ndarray, "s b"]:
    """The index table of `epoch`; at its first step, with `state` after `step` steps, the next table is begun."""
    if self._tables.epoch < epoch:
      present = self.tables(step).following
      assert present is not None  # `tables` has waited for it
      bank = self._renewed(epoch, state)
      self._tables = Tables(epoch, present, None, bank)
      self._begin(epoch + 1, bank)
    return self._tables.present

  def tables(self, step: int) -> Tables:
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

  def tables_now(self) -> Tables:
    """The same without waiting: a choice under way is not kept; the run that goes on makes it again, the same."""
    return self._tables

  def _begin(self, epoch, bank):
    rows = self._bank.rows(bank) if self._plan.is_selected(epoch) else None
    self._coming = self._pool.submit(self._choose, epoch, rows)

  def _result(self):
    while jax.process_count() == 1:  # several processes wait: to stop, all would have to look equally often
      if concurrent.futures.wait([self._coming], PATIENCE).done:  # pyright: ignore[reportArgumentType]
        break
      preemption.check()
    try:
      table, report = self._coming.result()  # pyright: ignore[reportOptionalMemberAccess]
      return of_lead(table), report
    except ValueError:
      self._log.flush()  # embeddings that are not finite come of a loss that is not, which says more
      raise

  def _renewed(self, epoch, state):
    if not self._plan.is_selected(epoch + 1) or (epoch - 1) % self._plan.refresh_epochs:
      return self._tables.bank
    jax.block_until_ready(state)  # steps still under way are not the bank's time
    started = time.perf_counter()
    bank = jax.block_until_ready(self._bank.refresh(state))
    seconds = time.perf_counter() - started
    self._spent += seconds
    self._refreshing = {"refresh_seconds": seconds}
    return bank

  def _choose(self, epoch, rows):
    if rows is None:
      return self._plan.table(epoch), None
    return chosen_table(self._plan, epoch, rows)

  def _share(self):
    trained = self._log.seconds() - self._began
    return {"selection_share": self._spent / trained} if trained > 0 else {}


def chosen_table(plan: Plan, epoch: int, rows: Float[Array, "m d"]) -> tuple[Int[np.ndarray, "s b"], dict[str, float]]:
  """Returns the index table that the plan's rule makes of a bank's rows, and what there is to report about it."""
  started = time.perf_counter()
  key = jax.random.fold_in(jax.random.key(plan.seed), epoch)
  table = np.asarray(epoch_batches(key, rows, plan.batch_size, **(plan.options or {})))
  seconds = time.perf_counter() - started
  return table, {"selection_seconds": seconds, "selected_rank": float(_mean_rank(rows, table)),
                 "random_rank": float(_mean_rank(rows, plan.random_table(epoch)))}


def selects(selection: Config) -> bool:
  """Whether batches are chosen by their embeddings."""
  return selection.rule not in ("random", "file")


def first_tables(plan: Plan, bank: Bank | None) -> Tables:
  """The tables of a run's beginning: two epochs of given or random batches, and an empty bank if one will be kept."""
  return Tables(0, plan.table(0), plan.table(1), bank.empty() if bank else None)


def selection_options(selection: Config, size: int) -> dict[str, Any]:
  """The keywords of `epoch_batches` from the config's `selection` section; 0 candidates are all."""
  options = selection.to_dict()
  options["candidates"] = options["candidates"] or None
  del options["table"]
  path = options.pop("reference")
  if selection.rule == "jest":
    options["reference"] = jnp.asarray(load_reference(path, size))
  return options


def check_bank(bank: Config) -> None:
  """Raises ConfigError for a `bank` section that no run could use."""
  if bank.refresh_epochs < 1:
    raise ConfigError(f"config.bank.refresh_epochs must be at least 1, got {bank.refresh_epochs}")
  if not 0 <= bank.momentum < 1:
    raise ConfigError(f"config.bank.momentum must lie in [0, 1), got {bank.momentum}; 0 keeps no moving average")
  if bank.dtype not in ("float32", "bfloat16"):
    raise ConfigError(f"config.bank.dtype must be 'float32' or 'bfloat16', got {bank.dtype!r}")


def check_selection(config: Config, size: int) -> dict[str, Any] | None:
  """Returns the keywords of `epoch_batches`, None where batches do not depend on embeddings; computes no batch.

  Raises:
    ConfigError: for a selection that could not choose batches from `size` examples.
  """
  if not selects(config.selection):
    return None
  bank = jax.ShapeDtypeStruct((size, config.model.projector_dim), config.bank.dtype)
  key = jax.eval_shape(lambda: jax.random.key(0))
  options = selection_options(config.selection, size)
  try:
    jax.eval_shape(lambda key, bank: epoch_batches(key, bank, config.batch_size, **options), key, bank)
  except (TypeError, ValueError) as error:
    raise ConfigError(f"config.selection: {error}") from error
  return options


@jax.jit
def _mean_rank(rows, table):
  """The mean over batches of their effective rank in the bank."""
  of_one = lambda batch: spectrum.effective_rank(rows[batch].astype(jnp.float32), kind=RANK)
  return jnp.mean(jax.lax.map(of_one, table))
