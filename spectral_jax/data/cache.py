"""A small cache on disk for what is slow to find out about a large data set: where its records lie and their sizes."""

import hashlib
import os
import pathlib
import tempfile
import zipfile

import numpy as np


def cache_dir():
  """`$SPECTRAL_JAX_CACHE`, else `spectral_jax` in `$XDG_CACHE_HOME` or `~/.cache`."""
  if own := os.environ.get("SPECTRAL_JAX_CACHE"):
    return pathlib.Path(own)
  return pathlib.Path(os.environ.get("XDG_CACHE_HOME") or pathlib.Path.home() / ".cache") / "spectral_jax"


def fingerprint(*parts):
  """A short name that changes with any of `parts`, which are strings or integers."""
  return hashlib.sha256("\0".join(map(str, parts)).encode()).hexdigest()[:24]


def cached(name, compute):
  """The dictionary of arrays that `compute()` returns, read from the file `name` if it was computed before."""
  path = cache_dir() / f"{name}.npz"
  try:
    with np.load(path) as stored:
      return dict(stored)
  except (OSError, ValueError, EOFError, zipfile.BadZipFile):
    arrays = compute()
  try:
    path.parent.mkdir(parents=True, exist_ok=True)
    # Written beside and renamed, so that a killed run leaves no half file and two runs do not mix.
    with tempfile.NamedTemporaryFile(dir=path.parent, suffix=".tmp", delete=False) as file:
      np.savez(file, **arrays)
    os.replace(file.name, path)
  except OSError:
    # A folder that cannot be written costs the next run the time again, nothing else.
    pass
  return arrays
