"""A cache on disk for what is slow to find out about a large data set: where its images lie and how large they are."""

from __future__ import annotations

import concurrent.futures
import hashlib
import itertools
import os
import pathlib
import tempfile
import time
import zipfile
from typing import TYPE_CHECKING

import numpy as np

from spectral_jax.progress import bar

if TYPE_CHECKING:
  from collections.abc import Callable, Sequence
  from typing import Any

# Pillow and the disk let go of the interpreter's lock, so threads use all cores and wait for the disk together.
THREADS = min(32, (os.cpu_count() or 1) + 1)
# Seconds of work that a killed run may lose.
SAVE_EVERY = 10.0


def cache_dir() -> pathlib.Path:
  """`$SPECTRAL_JAX_CACHE`, else `spectral_jax` in `$XDG_CACHE_HOME` or `~/.cache`."""
  if own := os.environ.get("SPECTRAL_JAX_CACHE"):
    return pathlib.Path(own)
  return pathlib.Path(os.environ.get("XDG_CACHE_HOME") or pathlib.Path.home() / ".cache") / "spectral_jax"


def fingerprint(*parts: str | int) -> str:
  """A short name that changes with any of `parts`, which are strings or integers."""
  return hashlib.sha256("\0".join(map(str, parts)).encode()).hexdigest()[:24]


def index(name: str, counts: Sequence[int], columns: int, measure: Callable[[int], Any], what: str) -> np.ndarray:
  """A table of integers, measured in threads part by part and kept on disk; an interrupted index goes on where it was.

  Args:
    name: names the file in `cache_dir()`; it holds a `fingerprint` of all that the table depends on.
    counts: how many rows each part has.
    columns: how many columns the table has.
    measure: `measure(p)` returns part p's rows, `(counts[p], columns)` integers, none below -1.
    what: what is under way, for the progress bar.

  Returns:
    `(sum(counts), columns)` int64.
  """
  path = cache_dir() / f"{name}.npz"
  total, ends = sum(counts), [0, *itertools.accumulate(counts)]
  table = _stored(path, columns)
  if table is None or len(table) not in ends:
    table = np.empty((0, columns), np.int64)
  if len(table) == total:
    return table
  rows, saved = [table], time.monotonic()
  first = ends.index(len(table))
  pool = concurrent.futures.ThreadPoolExecutor(THREADS, thread_name_prefix="index")
  try:
    with bar(what, total, initial=len(table)) as progress:
      for part in pool.map(measure, range(first, len(counts))):
        rows.append(np.asarray(part, np.int64).reshape(-1, columns))
        progress.update(len(rows[-1]))
        if time.monotonic() - saved > SAVE_EVERY:
          _save(path, rows)
          saved = time.monotonic()
  finally:
    # Also when interrupted, or stopped by a file that cannot be read: the next start begins there.
    pool.shutdown(cancel_futures=True)
    _save(path, rows)
  return np.concatenate(rows)


def _stored(path, columns):
  """The table in a file, or None where there is none that can be used."""
  try:
    with np.load(path) as stored:
      table = stored["table"]
  except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile):
    return None
  sound = table.ndim == 2 and table.shape[1] == columns and table.dtype == np.int64 and table.min(initial=0) >= -1
  return table if sound else None


def _save(path, rows):
  try:
    path.parent.mkdir(parents=True, exist_ok=True)
    # Written beside and renamed, so that a killed run leaves no half file and two runs do not mix.
    with tempfile.NamedTemporaryFile(dir=path.parent, suffix=".tmp", delete=False) as file:
      np.savez(file, table=np.concatenate(rows))
    os.replace(file.name, path)
  except OSError:
    # A folder that cannot be written costs the next run the time again, nothing else.
    pass
