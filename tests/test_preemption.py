"""Asked to stop at any moment, a run leaves with its exit code and ends, resumed, as if it had not been asked."""

import os
import signal
import subprocess
import sys
import threading
import time

import pytest

from spectral_jax import preemption
from tests import runs

TERM, INT = signal.SIGTERM, signal.SIGINT
LOG_ADD = "spectral_jax.workdir.logs:Log.add"
# What is called when the signal comes, how often it has been by then in that process, and the signal. In this order one
# run meets all of them, each from where the one before has left it.
MOMENTS = (
    (LOG_ADD, 4, TERM),                                                            # step 4, off any boundary
    ("spectral_jax.progress:bar(embedding)", 1, INT),                              # bank refresh
    ("spectral_jax.training.batches.planner:chosen_table", 1, TERM),               # selection
    ("spectral_jax.progress:bar(encoding)", 2, INT),                               # evaluation
    ("spectral_jax.workdir.checkpoints:save", 1, TERM),                            # saving
    ("spectral_jax.evaluation.scores:linear_accuracy", 1, TERM))                   # scoring, after the last step


def test_preempted_at_every_moment_it_ends_with_the_same_bits(forge, undisturbed, tmp_path):
  for moment in MOMENTS:
    entry = "main" if moment is MOMENTS[-1] else "train"
    code, said = forge.run(*runs.flags(runs.SETTINGS, tmp_path), entry=entry, at=moment)
    assert code == preemption.EXIT_CODE, (moment, said)
    assert "Stopping: saving a checkpoint" in said and "the same command goes on" in said
  # How a run that was stopped while it was scored goes on: tests/test_run.py.
  runs.assert_same(runs.left(tmp_path), undisturbed)


def test_before_there_is_anything_to_save_it_leaves_at_once(forge, tmp_path):
  code, said = forge.run(*runs.flags(runs.SETTINGS, tmp_path), entry="train",
                         at=("spectral_jax.training.run:make_mesh", 1, TERM))
  assert code == preemption.EXIT_CODE and "nothing to save" in said
  assert not (tmp_path / "checkpoints").exists()


# A main thread that no handler of Python's can interrupt, as while XLA compiles: a sleep in C, resumed after signals.
BUSY = """
import ctypes
from spectral_jax import preemption
with preemption.watched():
  print("busy", flush=True)
  left = 20
  while left:
    left = ctypes.CDLL(None).sleep(left)
"""


@pytest.mark.parametrize("number", [TERM, INT])
def test_a_second_signal_ends_at_once_whatever_the_main_thread_does(number):
  environment = {**os.environ, "JAX_PLATFORMS": "cpu"}
  process = subprocess.Popen([sys.executable, "-c", BUSY], env=environment, text=True,
                             stdout=subprocess.PIPE, stderr=subprocess.PIPE)
  assert process.stdout.readline() == "busy\n"
  process.send_signal(number)
  assert "Stopping" in (process.stderr.readline() + process.stderr.readline())
  process.send_signal(number)
  began = time.monotonic()
  assert process.wait(10) == 128 + number and time.monotonic() - began < 2


def test_handlers_are_put_back_and_a_signal_within_is_remembered():
  seen = []
  before = signal.signal(TERM, lambda number, frame: seen.append(number))
  try:
    with preemption.watched():
      assert not preemption.asked()
      with preemption.watched():  # a study around its runs
        os.kill(os.getpid(), TERM)
        until = time.monotonic() + 5
        while not preemption.asked() and time.monotonic() < until:
          time.sleep(0.01)
        with pytest.raises(preemption.Preempted):
          preemption.check()
      assert preemption.asked()
    assert not preemption.asked() and not seen
    os.kill(os.getpid(), TERM)
    assert seen == [TERM]
    with preemption.watched():  # what was asked of an earlier one is forgotten
      assert not preemption.asked()
  finally:
    signal.signal(TERM, before)


def test_in_another_thread_nothing_is_watched():
  found = []

  def body():
    with preemption.leaving(), preemption.watched():
      found.append((signal.getsignal(TERM), preemption.asked()))

  before = signal.getsignal(TERM)
  thread = threading.Thread(target=body)
  thread.start()
  thread.join()
  assert found == [(before, False)]
