"""What workdirs hold, read for a report."""

from __future__ import annotations

import pathlib
import zipfile
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from spectral_jax._errors import ConfigError
from spectral_jax.evaluation import SCORES
from spectral_jax.reports.gallery import ARRAYS
from spectral_jax.workdir.folder import SUMMARY, config_dict, damaged, flat, read_config, read_json
from spectral_jax.workdir.logs import METRICS, read_metrics

if TYPE_CHECKING:
  from collections.abc import Sequence

  from spectral_jax._types import Config

COUNTED = ("step", "seconds", "trained_seconds", "trained_processor_seconds", "evaluation_seconds")


class Recorded(NamedTuple):
  """What a workdir holds; a run that has not finished has no summary and no arrays."""
  name: str
  folder: pathlib.Path
  config: dict[str, Any]           # flat
  summary: dict[str, Any]
  series: dict[str, dict[int, float]]   # {metric, its learner's name included: {step: value}}
  arrays: dict[str, np.ndarray]


def recorded(folders: Sequence[str | pathlib.Path]) -> list[Recorded]:
  """Reads workdirs; their names are as short as tells them apart.

  Raises:
    ConfigError: a folder is no workdir, is named twice, or has a damaged file.
  """
  folders = [pathlib.Path(folder).expanduser().absolute() for folder in folders]
  if len(set(folders)) < len(folders):
    raise ConfigError("a workdir is named twice; name each once")
  configs = [read_config(folder) for folder in folders]
  return [read(folder, name, config) for folder, name, config in zip(folders, _names(folders), configs)]


def read(folder: pathlib.Path, name: str, config: Config) -> Recorded:
  """One workdir, in words and numbers."""
  summary = _summary(folder / SUMMARY) if (folder / SUMMARY).exists() else {}
  series = {}
  for record in read_metrics(folder) if (folder / METRICS).exists() else []:
    for key, value in record.items():
      if key not in COUNTED and isinstance(value, (int, float)):
        series.setdefault(key, {})[record["step"]] = value
  arrays = {}
  if (folder / ARRAYS).exists():
    try:
      with np.load(folder / ARRAYS, allow_pickle=False) as stored:
        arrays = dict(stored)
      lacking = _arrays_of(arrays) - arrays.keys()
      if lacking:
        raise ValueError(f"it lacks {', '.join(sorted(lacking))}")
    except (ValueError, OSError, EOFError, zipfile.BadZipFile) as error:
      raise ConfigError(f"{folder / ARRAYS} is damaged ({error}); delete it, and the report is made without pictures"
                        ) from error
  return Recorded(name, folder, flat(config_dict(config)), summary, series, arrays)


def _summary(path):
  """A summary whose scores are numbers by name, as the page takes them."""
  content = read_json(path, {"raw_pixels": dict, "random_init": dict})
  scored = content.get("learners", {})
  for name, scores in {**(scored if isinstance(scored, dict) else {"learners": scored}),
                       "raw_pixels": content["raw_pixels"], "random_init": content["random_init"]}.items():
    given = scores if isinstance(scores, dict) else {}
    if not all(isinstance(given.get(one.key), (int, float)) for one in SCORES):
      raise damaged(path, f"the scores of {name} are not {', '.join(one.key for one in SCORES)}")
  return content


def _arrays_of(arrays):
  """Names that belong to report.npz, by what it says to have."""
  several = {"spectra": ("spectrum_{}",), "maps": ("map_{}", "map_labels_{}", "map_share_{}")}
  return {"images", "views", "queries", "query_labels", "neighbors", "neighbor_labels", "class_names", "ranks"} | {
      form.format(i) for key, forms in several.items() for form in forms for i in range(len(arrays.get(key, ())))}


def _names(folders):
  for depth in range(1, max(len(folder.parts) for folder in folders)):
    names = ["/".join(folder.parts[-depth:]) for folder in folders]
    if len(set(names)) == len(names):
      return names
  return list(map(str, folders))
