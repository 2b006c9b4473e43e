"""What a run says while it runs: a progress bar, metrics.jsonl and TensorBoard events.

Metrics stay on the device as they come; the log reads those of one interval while the next is being computed, so
that no step ever waits for it. With several processes all check the losses, and the lead alone writes.
"""

from __future__ import annotations

import contextlib
import json
import math
import time
from typing import TYPE_CHECKING

import jax
import tqdm

from spectral_jax import progress
from spectral_jax._errors import ConfigError
from spectral_jax.workdir.folder import is_lead, write_text
from spectral_jax.workdir.tensorboard import Events

if TYPE_CHECKING:
  import pathlib
  from collections.abc import Iterator, Mapping
  from typing import Any

  from jaxtyping import Array

METRICS = "metrics.jsonl"


class Diverged(FloatingPointError):
  """A loss or gradient that is not finite; `step` is the first one that had it."""

  def __init__(self, step, found):
    super().__init__(" and ".join(f"{name} {value}" for name, value in found.items()) + f" at step {step}")
    self.step = step


class Log:
  """Collects device metrics and writes them an interval late; `flush` writes all that are left.

  Args:
    folder: the workdir.
    step: the step that the run begins at; what is written of later ones is dropped, since it will be made again.
    total_steps: of the whole run.
    config: its `log_every` and `batch_size` are used.
    host: what `host` returned when that step was saved.
  """

  def __init__(self, folder, step, total_steps, config, host):
    self._every, self._batch_size, self._total = config.log_every, config.batch_size, total_steps
    self._seconds = host["seconds"]           # trained, evaluation left out
    self._busy = host.get("processor_seconds", 0.0)  # the same of the processor; older checkpoints lack it
    self._timed = list(host["timed"])         # steps and seconds of intervals that compiled nothing
    self._last = dict(host["last"])
    self.was_interrupted = "pending" in host  # by a signal, and not stopped at a checkpoint that was due
    self._before, self._present = host.get("pending", ([], []))
    self._started, self._fresh = None, True
    self._lead = is_lead()
    self._lines = host.get("lines")           # of the file when that step was saved
    if self._lead:
      self._lines = _truncate(folder / METRICS, step, self._lines)
      self._file = open(folder / METRICS, "a")
      self._events = Events(folder, purge_step=step + 1 if step else None)
    self._bar = progress.bar("compiling", total_steps, unit="steps", initial=step, delay=0.0, leave=True,
                             bar_format="{percentage:3.0f}% of {total_fmt} steps  {desc}", disable=not self._lead)

  def start(self) -> None:
    """The clocks run from here."""
    self._started = _clocks()

  def add(self, step: int, metrics: Mapping[str, Array]) -> None:
    """Takes the metrics of step number `step` (counted from 1), still on the device."""
    self._present.append((step, metrics))
    if len(self._present) >= self._every:
      self._write(self._before)
      self._before, self._present = self._present, []

  def flush(self) -> None:
    """Waits for every step so far, writes its metrics, and stops the clocks."""
    for part in (self._before, self._present):
      self._write(part)
    self._before, self._present = [], []
    self._stop()

  def interrupted(self) -> dict[str, Any]:
    """For a run that stops within an interval: returns what a checkpoint carries, what is not yet written included."""
    pending = _on_host(self._before), _on_host(self._present)
    self._stop()
    return {**self.host(), "pending": pending}

  def _stop(self):
    self._tick(0)
    self._started = None

  def write(self, step: int, values: Mapping[str, float]) -> None:
    """Writes a line of plain numbers to metrics.jsonl and the same to TensorBoard."""
    if self._lead:
      self._file.write(json.dumps({"step": step, **values}) + "\n")
      self._file.flush()
      self._lines += 1
      self._events.scalars(step, values)

  @contextlib.contextmanager
  def doing(self, what: str) -> Iterator[None]:
    """Says in the bar what is under way between steps."""
    self._bar.set_description_str(f"{what}  ")
    try:
      yield
    finally:
      self._bar.set_description_str(self._said(), refresh=False)

  def seconds(self) -> float:
    """Seconds of training counted so far."""
    return self._seconds

  def processor_seconds(self) -> float:
    """Seconds that training has kept this process's processor busy, choosing batches included.

    Other work on the machine moves them far less than the clock's; an accelerator's time is not in them.
    """
    return self._busy

  def host(self) -> dict[str, Any]:
    """The numbers that a checkpoint carries along."""
    return {"seconds": self._seconds, "processor_seconds": self._busy, "timed": self._timed, "last": self._last,
            "lines": self._lines}

  def close(self) -> None:
    self._bar.close()
    if self._lead:
      self._events.close()
      self._file.close()

  def _write(self, interval):
    """Averages an interval's losses into one line; checks every one of them."""
    if not interval:
      return
    records = _on_host(interval)
    self._tick(len(interval))
    for _, record in records:
      self._last.update(record)
    values = {name: value for _, record in records for name, value in record.items()}
    values |= {name: sum(record[name] for _, record in records) / len(records) for name in values if _is(name, "loss")}
    speed = images_per_second(self.host(), self._batch_size)
    measured = {"images_per_second": speed} if speed else {}
    self.write(records[-1][0], {**values, **measured, "seconds": self._seconds})
    self._bar.set_description_str(self._said(), refresh=False)
    self._bar.update(len(interval))

  def _said(self):
    """The bar's line: pace, losses, the rank of the last batch that was looked at, the time left."""
    said, speed = [], images_per_second(self.host(), self._batch_size)
    if speed:
      said.append(f"{speed:,.0f} images/s")
    said += [f"{name} {value:.4f}" for name, value in self._last.items() if _is(name, "loss")]
    said += [f"batch rank {value:.1f}" for name, value in self._last.items() if name == "effective_rank"]
    if speed:
      left = (self._total - self._bar.n) * self._batch_size / speed
      said.append(f"{tqdm.tqdm.format_interval(left)} left")
    return "  ".join(said or ["compiling"])

  def _tick(self, steps):
    now = _clocks()
    passed, busy = (b - a for a, b in zip(self._started or now, now))
    self._started = now
    self._seconds += passed
    self._busy += busy
    if self._fresh and steps:
      self._fresh = False                     # the first interval compiles
    else:
      self._timed[0] += steps
      self._timed[1] += passed


def _clocks():
  """Seconds of the clock and of this process's processor."""
  return time.perf_counter(), time.process_time()


def _on_host(interval):
  """`[(step, metrics)]` as plain numbers; raises `Diverged` at the first step whose loss or gradient is not finite."""
  records = jax.device_get([metrics for _, metrics in interval])
  records = [(step, {name: float(value) for name, value in record.items()})
             for (step, _), record in zip(interval, records)]
  for step, record in records:
    watched = {name: value for name, value in record.items() if _is(name, "loss") or _is(name, "gradient_norm")}
    if not all(map(math.isfinite, watched.values())):
      raise Diverged(step, watched)
  return records


def _is(name, metric):
  """Whether `name` is that metric, of any learner."""
  return name.rsplit("/", 1)[-1] == metric


def images_per_second(host: Mapping[str, Any], batch_size: int) -> float:
  """Images a second while nothing was compiled or evaluated; 0 before the second interval."""
  steps, seconds = host["timed"]
  return steps * batch_size / seconds if seconds else 0.0


def _truncate(path, step, lines):
  """Drops what the run writes again: lines after the first `lines`, or where that was not kept, of later steps.

  Returns how many are left.
  """
  if not path.exists():
    return 0
  kept = path.read_text(errors="replace").splitlines()[:lines]
  kept = [line for line in kept if _step(line) <= step]
  write_text(path, "".join(line + "\n" for line in kept))
  return len(kept)


def _step(line):
  """A line that a killed process left half-written counts as never written."""
  try:
    return float(json.loads(line)["step"])
  except (ValueError, KeyError, TypeError):
    return math.inf


def read_metrics(folder: pathlib.Path) -> list[dict[str, Any]]:
  """Returns metrics.jsonl as a list of dicts.

  Raises:
    ConfigError: it holds something else.
  """
  path, records = folder / METRICS, []
  for number, line in enumerate(path.read_text(errors="replace").splitlines(), 1):
    if not math.isfinite(_step(line)):
      raise ConfigError(f"{path} is damaged in line {number}; delete that line, or the file")
    records.append(json.loads(line))
  return records
