"""The folder in which the tests keep compiled programs, for all workers of a suite and for the next one.

JAX finds a program by its content, its options and its own version, so none that is out of date is ever run.
"""

import contextlib
import os
import pathlib
import time

from jax._src import compilation_cache

KEPT_SECONDS = 21 * 24 * 3600


def folder():
  cache = pathlib.Path(os.environ.get("XDG_CACHE_HOME") or pathlib.Path.home() / ".cache")
  return os.environ.get("SPECTRAL_JAX_TEST_CACHE") or str(cache / "spectral_jax" / "tests")


def forget_old():
  """Removes programs that were compiled weeks ago: whoever still needs one compiles it once."""
  for program in pathlib.Path(folder()).glob("*"):
    with contextlib.suppress(FileNotFoundError):  # another suite may begin too
      if program.stat().st_mtime < time.time() - KEPT_SECONDS:
        program.unlink()


def read_back_for_one_device_only():
  """Programs for several CPU devices are compiled anew (see command.keep_compiled)."""
  read_back = compilation_cache.get_executable_and_time
  compilation_cache.get_executable_and_time = lambda key, options, backend, devices, *rest: (
      read_back(key, options, backend, devices, *rest) if len(devices) == 1 else (None, None))
