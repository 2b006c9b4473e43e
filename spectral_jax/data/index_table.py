"""Reads a user's own batches: an index table from .npy, .npz, .csv or .json."""

from __future__ import annotations

import json
import pathlib
import zipfile
from typing import TYPE_CHECKING

import numpy as np

from spectral_jax._errors import ConfigError
from spectral_jax.selection.table import check_table

if TYPE_CHECKING:
  from jaxtyping import Int32

ENDINGS = (".npy", ".npz", ".csv", ".json")


def load_index_table(path: str | pathlib.Path, size: int, batch_size: int) -> Int32[np.ndarray, "epochs steps b"]:
  """Returns the index table in the file `path`, checked, as int32 `(epochs, steps, batch_size)`; see `check_table`.

  A table has the shape (steps, batch_size) for every epoch or (epochs, steps, batch_size); epoch e takes table
  `e % epochs`. The endings say how it is stored:

      .npy    the array
      .npz    the array, alone or under the name "table"
      .csv    a batch in each line, without a header; the lines of several epochs follow each other
      .json   nested lists, or an object with them under "table"

  Args:
    path: the file.
    size: examples in the training set.
    batch_size: examples in a batch.

  Returns:
    `(epochs, size // batch_size, batch_size)` int32, as a NumPy array.

  Raises:
    ConfigError: a file that is missing, of another ending, unreadable, or not such a table; the message names it.

  Example:
    >>> import numpy as np, tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...   np.save(f"{folder}/table.npy", np.arange(100).reshape(10, 10))
    ...   load_index_table(f"{folder}/table.npy", 100, 10).shape
    (1, 10, 10)
  """
  file = pathlib.Path(path)
  ending = file.suffix.lower()
  if ending not in ENDINGS:
    raise ConfigError(f"the index table {path} must end in one of {', '.join(ENDINGS)}, got {ending!r}; "
                      "np.save writes .npy")
  if not file.is_file():
    raise ConfigError(f"there is no index table at {path}; give the path of a file that ends in {', '.join(ENDINGS)}")
  try:
    table = _READ[ending](file)
    if ending == ".csv" and batch_size <= size:
      table = _by_epoch(table, size // batch_size)
    return check_table(table, size, batch_size)
  except (OSError, EOFError, KeyError, TypeError, ValueError, zipfile.BadZipFile) as error:
    raise ConfigError(f"the index table {path} cannot be used: {error}") from error


def _npz(path):
  with np.load(path, allow_pickle=False) as file:
    if "table" not in file and len(file.files) != 1:
      raise ValueError(f'it holds {len(file.files)} arrays, {", ".join(file.files)}; name the table "table"')
    return file["table" if "table" in file else file.files[0]]


def _csv(path):
  return np.loadtxt(path, delimiter=",", dtype=np.int64, ndmin=2)


def _json(path):
  table = json.loads(path.read_text(encoding="utf-8"))
  if isinstance(table, dict) and "table" not in table:
    raise ValueError('an object must hold the table under the name "table"')
  return table["table"] if isinstance(table, dict) else table


def _by_epoch(table, steps):
  """Lines of several epochs as `(epochs, steps, batch_size)`; left as they are where they do not divide."""
  epochs, rest = divmod(len(table), steps)
  return table if rest or epochs < 2 else table.reshape(epochs, steps, -1)


_READ = {".npy": lambda path: np.load(path, allow_pickle=False), ".npz": _npz, ".csv": _csv, ".json": _json}
