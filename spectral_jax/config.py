"""Config files: found from any folder, loaded, their keys known."""

from __future__ import annotations

import importlib.util
import pathlib
import re
from typing import TYPE_CHECKING

from spectral_jax._errors import ConfigError
from spectral_jax._names import nearest

if TYPE_CHECKING:
  from collections.abc import Mapping, Sequence
  from typing import Any

  from spectral_jax._types import Config


PACKAGE = pathlib.Path(__file__).resolve().parent
# Beside the package in a checkout, inside it in an installation.
SHIPPED = next(folder for folder in (PACKAGE / "configs", PACKAGE.parent / "configs") if folder.is_dir())
# Keys of earlier versions.
RENAMED = {"augment.grey_prob": "augment.gray_prob", "augment.solarise_prob": "augment.solarize_prob"}


def shipped() -> list[str]:
  """Names of the configs that come with the package."""
  return sorted(path.stem for path in SHIPPED.glob("[!_]*.py"))


def find_config(name: str) -> str:
  """Returns the path of a config file: as given, or one that is shipped; 'cifar10' stands for configs/cifar10.py."""
  file, colon, argument = name.partition(":")
  path = pathlib.Path(file)
  inside = SHIPPED / path.name if path.parent.name in ("configs", "") else path
  for candidate in (path, inside, inside.with_suffix(".py")):
    if candidate.is_file():
      return f"{candidate}{colon}{argument}"
  raise ConfigError(
      f"--config={name}: there is no such file.{nearest(path.stem, shipped())} "
      f"Configs that come with the package: {', '.join(shipped())}")


def load_config(path: str) -> Config:
  """Returns `get_config()` of a config file, or `get_config(argument)` of 'FILE:argument', found as by `find_config`.

  >>> load_config("digits").data.name
  'digits'
  """
  file, colon, argument = find_config(path).partition(":")
  spec = importlib.util.spec_from_file_location(pathlib.Path(file).stem, file)
  if spec is None or spec.loader is None:
    raise ConfigError(f"--config={path}: {file} is not a Python file; a config's name ends in .py")
  module = importlib.util.module_from_spec(spec)
  spec.loader.exec_module(module)
  try:
    return module.get_config(argument) if colon else module.get_config()
  except AttributeError as error:  # the config is locked: a key that the defaults do not have
    raise ConfigError(f"{file}: {error}{_renamed_hint(str(error))}") from error


def check_keys(argv: Sequence[str], path: str) -> None:
  """Raises ConfigError for a `--config.KEY` that the config lacks, or a key written as a flag; names the right one."""
  known = keys(load_config(path))
  for word in argv[1:]:
    match = re.match(r"--?(?:no)?config\.([\w.]+)", word)
    if match and _is_keyword(match.group(1), known):
      section, _, keyword = match.group(1).rpartition(".")
      value = word.partition("=")[2] or "VALUE"
      raise ConfigError(f"--config.{match.group(1)}: keywords of a loss are given together, as a dictionary: "
                        f"--config.{section}=\"{{'{keyword}': {value}}}\"")
    if match and match.group(1) not in known:
      raise ConfigError(f"--config.{match.group(1)}: the config has no such key.{_hint(match.group(1), known)}")
    flag = re.match(r"--([\w.]+)", word)
    if flag and not match and flag.group(1) in known:
      raise ConfigError(f"--{flag.group(1)} is a key of the config: write --config.{word.removeprefix('--')}")


def _hint(key, known):
  if key == "workdir":
    return " The folder is a flag of its own: --workdir=DIR"
  if key in RENAMED:
    return f" It is called {RENAMED[key]!r} now."
  in_another_section = [k for k in known if k.split(".")[-1] == key] if "." not in key else []
  return f" Did you mean {in_another_section[0]!r}?" if in_another_section else nearest(key, known)


def _renamed_hint(message):
  return "".join(f" {old!r} is called {new!r} now." for old, new in RENAMED.items() if old.split(".")[-1] in message)


def _is_keyword(key, known):
  """Whether the key is a loss's own keyword, which the config does not have and no flag can add."""
  section = key.rpartition(".")[0]
  return key not in known and section in known and section.split(".")[-1] == "kwargs"


def keys(config: Mapping[str, Any], prefix: str = "") -> list[str]:
  """All keys of a config, sections included, with dots."""
  found = []
  for key, value in config.items():
    found.append(prefix + key)
    if hasattr(value, "items"):
      found += keys(value, prefix + key + ".")
  return found


def learner_names(config: Config) -> list[str]:
  """Names of a run's learners: those of `config.learners`, or the one that a run without any has."""
  return list(config.learners) or ["main"]


def main_name(config: Config) -> str:
  """The learner whose embeddings choose batches, and whose accuracy chooses the best checkpoint."""
  return config.main_learner or min(learner_names(config))
