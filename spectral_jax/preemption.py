"""Being asked to stop: SIGTERM from a scheduler or SIGINT from a keyboard, answered where nothing is lost.

The first signal is remembered and looked at between steps and between batches of longer work; the run then saves a
checkpoint and leaves with `EXIT_CODE`, so that a launcher can tell "start me again" from success and failure. A second
signal ends the process at once. With several processes JAX's preemption service agrees on the moment: whoever calls
`asked` must do so in the same order in every process.
"""

from __future__ import annotations

import contextlib
import os
import signal

import jax
from jax.experimental import multihost_utils

EXIT_CODE = 75  # EX_TEMPFAIL of sysexits.h: try again
SIGNALS = (signal.SIGTERM, signal.SIGINT)


class Preempted(Exception):
  """Work was left where it can be taken up again."""


class _Watch:
  """What has been asked of this process so far."""

  def __init__(self):
    self.active, self.signaled, self.agreed, self.ticks = False, False, False, 0


_watch = _Watch()


@contextlib.contextmanager
def watched():
  """Within it the signals are remembered instead of obeyed; handlers are put back at the end."""
  if _watch.active:  # a study around its runs
    yield
    return
  _watch.__init__()
  _watch.active = True
  alone = jax.process_count() == 1
  # With several processes SIGTERM belongs to JAX's service, which tells the others.
  before = {number: signal.signal(number, _remember if alone else _forward)
            for number in (SIGNALS if alone else (signal.SIGINT,))}
  try:
    yield
  finally:
    _watch.active = False
    for number, handler in before.items():
      signal.signal(number, handler)


def _remember(number, frame):
  if _watch.signaled:
    os._exit(128 + number)
  _watch.signaled = True
  # Written by itself: print may be interrupted in the middle of another print.
  os.write(2, b"\nStopping: saving a checkpoint. A second signal ends at once, without one.\n")


def _forward(number, frame):
  if _watch.signaled:
    os._exit(128 + number)
  _watch.signaled = True
  os.kill(os.getpid(), signal.SIGTERM)


def asked() -> bool:
  """Whether to stop now; with several processes the same in each, at the same call."""
  if not _watch.active or _watch.agreed:
    return _watch.active and _watch.agreed
  if jax.process_count() == 1:
    _watch.agreed = _watch.signaled
  else:
    _watch.ticks += 1
    _watch.agreed = multihost_utils.reached_preemption_sync_point(_watch.ticks)
  return _watch.agreed


def check() -> None:
  """Raises `Preempted` if the run was asked to stop; called between parts of work that can be repeated."""
  if asked():
    raise Preempted
