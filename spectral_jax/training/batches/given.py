"""What a user's file adds to the choice of batches: the batches themselves, or a reference model's embeddings."""

from __future__ import annotations

import pathlib
import zipfile
from typing import TYPE_CHECKING

import numpy as np

from spectral_jax._errors import ConfigError
from spectral_jax.data.index_table import load_index_table

if TYPE_CHECKING:
  from jaxtyping import Float, Int

  from spectral_jax._types import Config

# Each rule that needs a file, the key that names it, and what is in it.
FILES = {"file": ("table", "an index table (.npy, .npz, .csv or .json)"),
         "jest": ("reference", "a reference model's embeddings of the training images (.npy or .npz)")}


def check_files(selection: Config) -> None:
  """Raises ConfigError where a rule's file is not named or not there, or one is named that the rule does not read."""
  for rule, (key, what) in FILES.items():
    path = selection[key]
    if selection.rule != rule:
      if path:
        raise ConfigError(f"config.selection.{key}={path!r} is read by rule={rule!r} alone, and the rule is "
                          f"{selection.rule!r}; set --config.selection.rule={rule}, or leave {key} empty")
    elif not path:
      raise ConfigError(f"config.selection.rule={rule!r} needs {what}: --config.selection.{key}=PATH")
    elif not pathlib.Path(path).expanduser().is_file():
      raise ConfigError(f"config.selection.{key}={path!r} is no file; give the path of {what}")


def load_table(selection: Config, size: int, batch_size: int) -> Int[np.ndarray, "e s b"] | None:
  """The index table of the rule "file", `(epochs, steps, batch_size)` int32; None for other rules.

  Raises:
    ConfigError: it is no table of `size` examples in batches of `batch_size`.
  """
  if selection.rule != "file":
    return None
  return load_index_table(pathlib.Path(selection.table).expanduser(), size, batch_size)


def load_reference(path: str | pathlib.Path, size: int) -> Float[np.ndarray, "m d"]:
  """Returns the embeddings in a file, float32 `(size, d)`: row i belongs to training image i.

  An .npy file holds the array, an .npz file the array "embeddings", or "features", or a single one of any name.

  Raises:
    ConfigError: the file cannot be read, or holds no finite matrix of `size` rows.
  """
  try:
    rows = _array(np.load(pathlib.Path(path).expanduser(), allow_pickle=False))
  except (OSError, EOFError, ValueError, zipfile.BadZipFile) as error:
    raise ConfigError(f"config.selection.reference={path!r} cannot be used: {error}") from error
  if rows.ndim != 2 or rows.shape[0] != size or not np.issubdtype(rows.dtype, np.floating):
    raise ConfigError(f"config.selection.reference={path!r} must hold floating-point embeddings of shape ({size}, d), "
                      f"one row a training image in the data set's order; got {rows.dtype} of shape {rows.shape}")
  if not np.isfinite(rows).all():
    raise ConfigError(f"config.selection.reference={path!r} holds NaN or inf in "
                      f"{int((~np.isfinite(rows)).any(1).sum())} rows; embed those images anew")
  return rows.astype(np.float32)


def _array(content):
  """The array of an .npy file, or the one that is meant of an .npz file."""
  if isinstance(content, np.ndarray):
    return content
  with content as file:
    named = [name for name in ("embeddings", "features") if name in file] or file.files
    if len(named) != 1:
      raise ValueError(f'it holds {len(file.files)} arrays, {", ".join(file.files)}; name the one "embeddings"')
    return file[named[0]]
