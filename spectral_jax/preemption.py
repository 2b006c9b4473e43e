"""Being asked to stop: SIGTERM from a scheduler or SIGINT from a keyboard, answered where nothing is lost.

The first signal is remembered and looked at between steps and between batches of longer work; the run then saves a
checkpoint and leaves with `EXIT_CODE`, so that a launcher can tell "start me again" from success and failure. A second
signal ends the process at once, also while it compiles or waits for another process. With several processes JAX's
preemption service agrees on the moment: whoever calls `asked` must do so in the same order in every process.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import threading
from typing import TYPE_CHECKING

import jax
from jax.experimental import multihost_utils

if TYPE_CHECKING:
  from collections.abc import Iterator

EXIT_CODE = 75  # EX_TEMPFAIL of sysexits.h: try again
SIGNALS = (signal.SIGTERM, signal.SIGINT)


class Preempted(Exception):
  """Work was left where it can be taken up again."""


class _Watch:
  """What has been asked of this process so far; `ticks` counts the looks of all processes and never goes back."""
  active, signaled, agreed, ticks = False, False, False, 0


_watch = _Watch()


@contextlib.contextmanager
def leaving() -> Iterator[None]:
  """Within it, and outside `watched`, a signal ends the process at once with `EXIT_CODE`: there is nothing to save.

  Several processes leave together: JAX's service remembers SIGTERM until `watched` begins.
  """
  with _handling(_leave) if jax.process_count() == 1 else contextlib.nullcontext():
    yield


@contextlib.contextmanager
def watched() -> Iterator[None]:
  """Within it the signals are remembered instead of obeyed; handlers are put back at the end."""
  if _watch.active:  # a study around its runs
    yield
    return
  _watch.signaled, _watch.agreed, _watch.active = False, False, True
  with contextlib.ExitStack() as stack:
    stack.callback(setattr, _watch, "active", False)
    system = stack.enter_context(_handling(_remembered))
    # A thread answers, since the main one sees no signal while it compiles or waits: the interpreter writes each
    # signal's number into a pipe as it comes.
    reading, writing = os.pipe()
    os.set_blocking(writing, False)
    listener = threading.Thread(target=_listen, args=(reading, system.get(signal.SIGTERM)), name="signals", daemon=True)
    listener.start()
    stack.callback(listener.join)
    stack.callback(os.close, writing)
    if system:
      stack.callback(signal.set_wakeup_fd, signal.set_wakeup_fd(writing, warn_on_full_buffer=False))
    yield


@contextlib.contextmanager
def _handling(handler):
  """Handles the signals by `handler`. Yields the handlers that the system had, Python's or not, and puts them back.

  Python lets the main thread alone have handlers: in another one nothing is changed, and nothing yielded.
  """
  if threading.current_thread() is not threading.main_thread():
    yield {}
    return
  of_system = ctypes.CDLL(None).signal
  of_system.restype, of_system.argtypes = ctypes.c_void_p, (ctypes.c_int, ctypes.c_void_p)
  system, of_python = {}, {}
  for number in SIGNALS:
    system[number] = of_system(number, None)
    of_python[number] = signal.signal(number, handler)
  try:
    yield system
  finally:
    for number in SIGNALS:
      signal.signal(number, of_python[number] or signal.SIG_DFL)
      of_system(number, system[number])


def _leave(number, frame):
  os.write(2, b"\nStopped: there was nothing to save.\n")
  os._exit(EXIT_CODE)


def _remembered(number, frame):
  """The listener's part, done by then: without a handler the interpreter writes no number."""


def _listen(reading, service):
  """Reads the signals' numbers until the pipe is closed; `service` is the handler of JAX's preemption service."""
  while came := os.read(reading, 1):
    if came[0] not in SIGNALS:
      continue
    if _watch.signaled:
      os._exit(128 + came[0])
    _watch.signaled = True
    # Written by itself: print may be interrupted in the middle of another print.
    os.write(2, b"\nStopping: saving a checkpoint. A second signal ends at once, without one.\n")
    if jax.process_count() > 1:
      ctypes.CFUNCTYPE(None, ctypes.c_int)(service)(signal.SIGTERM)
  os.close(reading)


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
