"""What the commands share: their flags, their first checks, how they end."""

from __future__ import annotations

import gc
import glob
import os
import pathlib
import re
import sys
import warnings
from typing import TYPE_CHECKING

try:
  from absl import app, flags, logging
  from ml_collections import config_flags
except ModuleNotFoundError as missing:
  sys.exit(f"Error: {missing.name} is not installed; the commands need the train extra: "
           "pip install 'spectral_jax[train]', or '.[train]' in a checkout")

from spectral_jax._errors import ConfigError, RunError
from spectral_jax._names import check_mounted
from spectral_jax.config import check_keys, find_config

if TYPE_CHECKING:
  from collections.abc import Callable, Sequence

  from spectral_jax._types import Config

WORKDIR = flags.DEFINE_string("workdir", None, "Where everything is left; by default a folder of runs/.")
COORDINATOR = flags.DEFINE_string(
    "coordinator", None, "Of several processes: HOST:PORT of the first, where no launcher says it.")
PROCESSES = flags.DEFINE_integer("processes", None, "Of several processes: how many there are; 1: this one alone.")
PROCESS = flags.DEFINE_integer("process", None, "Of several processes: the number of this one, from 0.")
LOST_AFTER = flags.DEFINE_integer(
    "lost_after", 60, "Of several processes: one silent for so many seconds is lost; all end.")
OWN = ("workdir", "coordinator", "processes", "process", "lost_after")

CACHE = "~/.cache/spectral_jax/compiled"


def run(main: Callable[[Config, str], None], default: str = "digits") -> None:
  """Parses the flags and calls `main(config, name)`, with the resolved config and the config file's bare name.

  What the project raises on purpose ends the process with its message, without a traceback; a run that was asked to
  stop ends with `preemption.EXIT_CODE`.
  """
  try:
    argv, path = resolved(sys.argv, default)
    check_keys(argv, path)
    if "--workdir=" in argv:
      raise ConfigError("--workdir= is empty; name a folder, or leave the flag out for one in runs/")
  except ConfigError as error:
    sys.exit(f"Error: {error}")
  holder = config_flags.DEFINE_config_file(
      "config", path, "The config file of the run: a name or a path.", sys_argv=argv)
  for name in ("config", *OWN):  # so that --help of the command shows them beside its own
    flags.FLAGS.register_key_flag_for_module(argv[0], flags.FLAGS[name])

  def body(rest):
    if len(rest) > 1:
      raise app.UsageError(f"unexpected arguments {rest[1:]}; config keys are set as --config.KEY=VALUE")
    _ended_plainly(lambda: _together(lambda: main(holder.value, pathlib.Path(path.split(":")[0]).stem)))

  app.run(body, argv)


def run_on_workdirs(main: Callable[[list[str]], None]) -> None:
  """Parses the flags and calls `main(workdirs)` with the words that are no flags; ends as `run` does."""
  def body(argv):
    keep_compiled()
    main(argv[1:])

  app.run(lambda argv: _ended_plainly(lambda: body(argv)))


def _together(work):
  """Calls `work()` with the other processes of the run, where there are several."""
  check_mounted("--workdir", WORKDIR.value, written=True)
  from spectral_jax import distributed
  from spectral_jax.preemption import leaving
  distributed.start(COORDINATOR.value, PROCESSES.value, PROCESS.value, lost_after=LOST_AFTER.value)
  keep_compiled()  # asks for the devices, which are known only now
  with distributed.together(), leaving():
    work()


def _ended_plainly(work):
  gc.set_threshold(200_000, 20, 20)  # tracing makes many objects and hardly a cycle; looking took a fifth of a start
  logging.set_verbosity(logging.ERROR)  # JAX and orbax log every step of theirs
  from spectral_jax.preemption import EXIT_CODE, Preempted
  try:
    work()
  except (ConfigError, RunError) as error:
    sys.exit(f"\nError: {error}")
  except Preempted:
    print("Stopped as asked; the same command goes on from here.", file=sys.stderr, flush=True)
    sys.exit(EXIT_CODE)


def keep_compiled() -> None:
  """Keeps what XLA compiles in a folder of the user's cache, for later runs; `JAX_COMPILATION_CACHE_DIR` names another.

  Nothing is kept, nor read, where a program spans several CPU devices: one that JAX 0.10.2 reads back runs its
  collectives without order. With 8 devices on busy cores 2 to 9 of 60 calls returned other values, NaN among them; of
  240 calls of the same program freshly compiled none did. With a channel of its own for every collective they wait for
  each other forever instead.
  """
  import jax
  if jax.default_backend() == "cpu" and jax.device_count() > 1:
    jax.config.update("jax_enable_compilation_cache", False)
    return
  if "JAX_COMPILATION_CACHE_DIR" not in os.environ:
    jax.config.update("jax_compilation_cache_dir", str(pathlib.Path(CACHE).expanduser()))
  if "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS" not in os.environ:
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.1)
  # None where the variable is empty: nothing is kept then.
  folder = jax.config.jax_compilation_cache_dir  # pyright: ignore[reportAttributeAccessIssue]
  if folder and "://" not in folder:
    _forget_damaged(pathlib.Path(folder))


def _forget_damaged(folder):
  """Removes a program that cannot be read back, in the place of JAX's warning.

  JAX writes them in place, so that a kill or a full disk can leave half of one. It compiles that one anew, but never
  writes over what is there, and would warn at every start.
  """
  show = warnings.showwarning

  def forget_or_show(message, *rest, **more):
    found = re.match(r"Error reading persistent compilation cache entry for '([^'/]+)'", str(message))
    if not found:
      return show(message, *rest, **more)
    print(f"A compiled program in {folder} is damaged ({found[1]}): it is removed and compiled anew.", file=sys.stderr)
    for path in folder.glob(f"{glob.escape(found[1])}-*"):
      path.unlink(missing_ok=True)

  warnings.showwarning = forget_or_show


def resolved(argv: Sequence[str], default: str) -> tuple[list[str], str]:
  """Returns argv with the config's path made one that exists, and that path, with its ':argument' if it has one.

  The config comes first, wherever it stood: ml_collections takes no key before it.
  """
  path, rest, words = find_config(default), [], iter(argv[1:])
  for word in words:
    if re.fullmatch(r"--?config=.*", word):
      path = find_config(word.split("=", 1)[1])
    elif word in ("-config", "--config") and (name := next(words, None)) is not None:
      path = find_config(name)
    else:
      rest.append(word)
  return [argv[0], f"--config={path}", *rest], path
