"""Several processes, one run: how they find each other, and how they end together.

The engine is JAX's own runtime. A launcher's variables say who belongs to a run (SLURM, Open MPI, a TPU pod,
Kubernetes: JAX's detection), or three flags do. Processes of CPU devices talk through gloo, JAX's default.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import re
import socket
import sys
import traceback
from typing import TYPE_CHECKING

import jax
from jax.errors import JaxRuntimeError

from spectral_jax._errors import ConfigError, RunError
from spectral_jax.preemption import Preempted

if TYPE_CHECKING:
  from collections.abc import Iterator

# A process that gave no sign of life for so many seconds is lost, and the others end. JAX's default is 100.
LOST_AFTER = 60
# Seconds that processes wait for each other at the beginning: nodes of a job do not come up together.
MEETING = 300
# Variables of launchers that start a single process too, which then is no several-process run.
SIZES = ("SLURM_NTASKS", "OMPI_COMM_WORLD_SIZE")
HOSTS = "spectral_jax/hosts"


class _Run:
  """What `start` was told."""
  lost_after = LOST_AFTER


def start(coordinator: str | None = None, processes: int | None = None, process: int | None = None, *,
          lost_after: int = LOST_AFTER, meeting: int = MEETING) -> int:
  """Joins this process to the others of its run; call it before anything is computed.

  Args:
    coordinator: "host:port" of process 0, the port free there; with `processes` and `process` it says what a launcher
      would. None, all three: what a launcher's variables say, and without such variables one process alone.
    processes: how many there are; 1 is one alone, whatever launched it.
    process: number of this one, from 0.
    lost_after: seconds without a sign of life after which a process counts as lost; then all end.
    meeting: seconds to wait for the others.

  Returns:
    The number of processes.

  Raises:
    ConfigError: the three do not fit together.
    RunError: the others did not come.

  >>> start(processes=1)
  1
  """
  _check(coordinator, processes, process, lost_after)
  _Run.lost_after = lost_after
  alone = processes == 1 or (coordinator is None and any(os.environ.get(size) == "1" for size in SIZES))
  if alone:
    return 1
  by_flags = {} if coordinator is None else dict(
      coordinator_address=coordinator, num_processes=processes, process_id=process,
      cluster_detection_method="deactivate")
  try:
    jax.distributed.initialize(**by_flags, heartbeat_timeout_seconds=lost_after, initialization_timeout=meeting)  # pyright: ignore[reportArgumentType]
  except ValueError as error:
    if by_flags or "coordinator_address" not in str(error):
      raise
    return 1  # JAX found no launcher
  except JaxRuntimeError as error:
    where = coordinator or "the address that the launcher's variables give"
    raise RunError(
        f"the processes of this run did not meet at {where} within {meeting} s; start all of them, with the same "
        f"--coordinator and --processes, a --process of its own each, and a port that is free ({error})") from None
  if jax.process_count() > 1:
    _service().key_value_set(f"{HOSTS}/{jax.process_index()}", socket.gethostname())
    if jax.process_index() == 0:
      print(_who(meeting, lost_after), flush=True)
  return jax.process_count()


def _who(meeting, lost_after):
  """Says which process is where: JAX's own message of a lost one, where it comes first, has its number alone."""
  hosts = [_service().blocking_key_value_get(f"{HOSTS}/{i}", 1000 * meeting) for i in range(jax.process_count())]
  where = []
  for host, group in itertools.groupby(range(len(hosts)), hosts.__getitem__):
    numbers = list(group)
    where.append(f"{numbers[0]}{f' to {numbers[-1]}' if len(numbers) > 1 else ''} on {host}")
  return (f"{len(hosts)} processes: {', '.join(where)}. A task without a sign of life for {lost_after} s is lost "
          "and ends all; where JAX names none, or the leader, it is process 0. The same command goes on from the last "
          "checkpoint.")


def _check(coordinator, processes, process, lost_after):
  given = {"--coordinator": coordinator, "--processes": processes, "--process": process}
  missing = [flag for flag, value in given.items() if value is None]
  if processes == 1 and coordinator is None:
    missing = []
  if len(missing) not in (0, 3):
    raise ConfigError(f"{' and '.join(missing)} must be given too: --coordinator=HOST:PORT --processes=N --process=I "
                      "belong together; leave all out where a launcher (SLURM, TPU, Kubernetes, Open MPI) says it")
  if processes is not None and processes < 1:
    raise ConfigError(f"--processes must be at least 1, got {processes}")
  if process is not None and processes is not None and not 0 <= process < processes:
    raise ConfigError(f"--process must be from 0 to {processes - 1}, one below --processes, got {process}")
  if coordinator is not None and not coordinator.rpartition(":")[2].isdigit():
    raise ConfigError(f"--coordinator must be HOST:PORT, such as 10.0.0.1:12345, got {coordinator!r}")
  if lost_after < 2:
    raise ConfigError(f"--lost_after must be at least 2 seconds, got {lost_after}")


@contextlib.contextmanager
def together(alike: tuple[type[BaseException], ...] = ()) -> Iterator[None]:
  """With several processes: an error in this one ends it at once, so that the others need not wait for it.

  Usual ways to an end, of the interpreter or of a checkpoint under way, wait for all to come to theirs.

  Args:
    alike: errors that every process meets at the same place, and which go on as they are.
  """
  try:
    yield
  except (Exception, KeyboardInterrupt) as error:  # whatever it is, it is said and ends the process
    if jax.process_count() == 1 or isinstance(error, (Preempted, *alike)):
      raise
    if isinstance(error, (ConfigError, RunError)):
      print(f"\nError in {_me()}: {error}", file=sys.stderr)
    else:
      traceback.print_exception(error)
    if isinstance(error, JaxRuntimeError):
      sys.stderr.flush()
      print(f"\nError in {_me()}: {_silent()}. The same command goes on from the last checkpoint.", file=sys.stderr)
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(1)


def _me():
  return f"process {jax.process_index()} of {jax.process_count()} on {socket.gethostname()}"


def _service():
  from orbax.checkpoint import multihost  # which needs what only the trainer does
  return multihost.get_jax_distributed_client()


def _silent():
  """Says which processes are gone: those that do not come to a barrier to which an error has sent the others.

  It waits a third of the time after which JAX's service ends all of them.
  """
  hosts = {name.rpartition("/")[2]: host for name, host in _service().key_value_dir_get(HOSTS)}
  try:
    _service().wait_at_barrier("roll call", 1000 * _Run.lost_after // 3)
  except JaxRuntimeError as error:
    named = (re.search(r"timed out task names:\s*((?:\d+\s+)+)", str(error))
             or re.search(r"Task (\d+) heartbeat", str(error)))
    if named is None:
      return f"who is left could not be asked: {error}"
    return "lost " + " and ".join(f"process {i} on {hosts.get(i, 'an unknown host')}" for i in named[1].split())
  return "all processes still answer"
