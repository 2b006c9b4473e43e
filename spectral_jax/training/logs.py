"""What a run says while it runs: a progress bar, metrics.jsonl and TensorBoard events.

Metrics stay on the device as they come; the log reads those of one interval while the next is being computed, so
that no step ever waits for it.
"""

import json
import math
import sys
import time

import jax
import tqdm

from spectral_jax.training.events import Events

METRICS = "metrics.jsonl"


class Diverged(FloatingPointError):
  """A loss or gradient that is not finite; `step` is the first one that had it."""

  def __init__(self, step, metrics):
    super().__init__(f"loss {metrics['loss']} and gradient norm {metrics['gradient_norm']} at step {step}")
    self.step = step


class _Lines:
  """Standard error where it is a file: one line after another instead of one redrawn, none twice."""

  _last = ""

  def write(self, text):
    text = text.strip()
    if text and text != self._last:
      print(text, file=sys.stderr)
      self._last = text

  def flush(self):
    sys.stderr.flush()


class Log:
  """Collects device metrics and writes them an interval late; `flush` writes all that are left."""

  def __init__(self, workdir, step, total_steps, config, host):
    self._every, self._batch_size = config.log_every, config.batch_size
    self._seconds = host["seconds"]           # trained, evaluation left out
    self._timed = list(host["timed"])         # steps and seconds of intervals that compiled nothing
    self._last = dict(host["last"])
    self._present, self._before = [], []
    self._started, self._fresh = None, True
    self._file = open(_truncated(workdir / METRICS, step), "a")
    self._events = Events(workdir, purge_step=step + 1 if step else None)
    terminal = sys.stderr.isatty()
    self._bar = tqdm.tqdm(
        total=total_steps, initial=step, file=sys.stderr if terminal else _Lines(), dynamic_ncols=terminal,
        mininterval=0.2 if terminal else 10.0, smoothing=0.05,
        bar_format=("{percentage:3.0f}%|{bar:20}| " if terminal else "") +
        "step {n_fmt}/{total_fmt}  {desc}{remaining} left")

  def start(self):
    """The clock runs from here."""
    self._started = time.perf_counter()

  def add(self, step, metrics):
    """Takes the metrics of step number `step` (counted from 1), still on the device."""
    self._present.append((step, metrics))
    if len(self._present) == self._every:
      self._write(self._before)
      self._before, self._present = self._present, []

  def flush(self):
    """Waits for every step so far, writes its metrics, and stops the clock."""
    for part in (self._before, self._present):
      self._write(part)
    self._before, self._present = [], []
    self._tick(0)
    self._started = None
    self._file.flush()

  def write(self, step, values):
    """Writes a line of plain numbers to metrics.jsonl and the same to TensorBoard."""
    self._file.write(json.dumps({"step": step, **values}) + "\n")
    self._file.flush()
    self._events.scalars(step, values)

  def note(self, text):
    """Prints a line above the bar."""
    tqdm.tqdm.write(text)

  def host(self):
    """The numbers that a checkpoint carries along."""
    return {"seconds": self._seconds, "timed": self._timed, "last": self._last}

  def close(self):
    self._bar.close()
    self._events.close()
    self._file.close()

  def _write(self, interval):
    """Averages an interval's losses into one line; checks every one of them."""
    if not interval:
      return
    records = jax.device_get([metrics for _, metrics in interval])
    records = [{name: float(value) for name, value in record.items()} for record in records]
    for (step, _), record in zip(interval, records):
      if not (math.isfinite(record["loss"]) and math.isfinite(record["gradient_norm"])):
        raise Diverged(step, record)
    self._tick(len(interval))
    for record in records:
      self._last.update(record)
    values = {**{k: v for record in records for k, v in record.items()},
              "loss": sum(record["loss"] for record in records) / len(records)}
    speed = images_per_second(self.host(), self._batch_size)
    measured = {"images_per_second": speed} if speed else {}
    self.write(interval[-1][0], {**values, **measured, "seconds": self._seconds})
    pace = f"{speed:,.0f} images/s  " if speed else ""
    rank = f"rank {self._last['effective_rank']:.1f}  " if "effective_rank" in self._last else ""
    self._bar.set_description_str(f"{pace}loss {values['loss']:.4f}  {rank}", refresh=False)
    self._bar.update(len(interval))

  def _tick(self, steps):
    now = time.perf_counter()
    passed = now - self._started if self._started is not None else 0.0
    self._started = now
    self._seconds += passed
    if self._fresh and steps:
      self._fresh = False                     # the first interval compiles
    else:
      self._timed[0] += steps
      self._timed[1] += passed


def images_per_second(host, batch_size):
  """Images a second while nothing was compiled or evaluated; 0 before the second interval."""
  steps, seconds = host["timed"]
  return steps * batch_size / seconds if seconds else 0.0


def _truncated(path, step):
  """Drops lines later than `step`: the run is about to write them again."""
  if path.exists():
    kept = [line for line in path.read_text().splitlines() if _step(line) <= step]
    part = path.with_name(path.name + ".part")
    part.write_text("".join(line + "\n" for line in kept))
    part.replace(path)
  return path


def _step(line):
  """A line that a killed process left half-written counts as never written."""
  try:
    return json.loads(line)["step"]
  except (ValueError, KeyError, TypeError):
    return math.inf


def read_metrics(workdir):
  """Returns metrics.jsonl as a list of dicts."""
  return [json.loads(line) for line in (workdir / METRICS).read_text().splitlines()]
