"""What the commands share: the `--config` flag, found from any folder, its keys checked before anything is loaded."""

import importlib.util
import pathlib
import re
import sys

from absl import app, flags, logging
from ml_collections import config_flags

from spectral_jax._names import nearest

WORKDIR = flags.DEFINE_string("workdir", None, "Where everything is left; by default a folder of runs/.")

# configs/ lies beside the package, in a checkout as in an installation.
ROOT = pathlib.Path(__file__).resolve().parent.parent
ERRORS = (ValueError, TypeError, FileNotFoundError, FloatingPointError, ImportError, RuntimeError)


def run(main, default="configs/digits.py"):
  """Parses the flags and calls `main(config, name)`, with the resolved config and the config file's bare name.

  An error of the kinds that the project raises on purpose ends the process with its message, without a traceback.
  """
  try:
    argv, path = resolved(sys.argv, default)
    check_keys(argv, path)
  except ERRORS as error:
    sys.exit(f"Error: {error}")
  holder = config_flags.DEFINE_config_file("config", path, "The config file of the run.", sys_argv=argv)

  def body(rest):
    if len(rest) > 1:
      raise app.UsageError(f"unexpected arguments {rest[1:]}; config keys are set as --config.KEY=VALUE")
    logging.set_verbosity(logging.WARNING)  # JAX and orbax narrate
    try:
      main(holder.value, pathlib.Path(path.split(":")[0]).stem)
    except ERRORS as error:
      sys.exit(f"\nError: {error}")

  app.run(body, argv)


def resolved(argv, default):
  """Returns argv with the config's path made one that exists, and that path, with its ':argument' if it has one."""
  argv, path = list(argv), find_config(default)
  for i, word in enumerate(argv):
    if re.fullmatch(r"--?config=.*", word):
      path = find_config(word.split("=", 1)[1])
      argv[i] = f"--config={path}"
    elif word in ("-config", "--config") and i + 1 < len(argv):
      path = argv[i + 1] = find_config(argv[i + 1])
  return argv, path


def find_config(name):
  """Returns the path of a config file: as given, or beside the package; 'cifar10' stands for configs/cifar10.py."""
  file, colon, argument = name.partition(":")
  for candidate in (pathlib.Path(file), ROOT / file, ROOT / "configs" / f"{file}.py"):
    if candidate.is_file():
      return f"{candidate}{colon}{argument}"
  shipped = sorted(p.stem for p in (ROOT / "configs").glob("[!_]*.py") if p.stem != "defaults")
  raise FileNotFoundError(
      f"--config={name}: there is no such file.{nearest(pathlib.Path(file).stem, shipped)} "
      f"Configs that come with the package: {', '.join(shipped)}")


def load_config(path):
  """Returns `get_config()` of a config file, or `get_config(argument)` of 'FILE:argument'."""
  file, colon, argument = path.partition(":")
  spec = importlib.util.spec_from_file_location(pathlib.Path(file).stem, file)
  module = importlib.util.module_from_spec(spec)
  spec.loader.exec_module(module)
  try:
    return module.get_config(argument) if colon else module.get_config()
  except AttributeError as error:  # the config is locked: a key that the defaults do not have
    raise ValueError(f"{file}: {error}") from error


def check_keys(argv, path):
  """Raises ValueError for a `--config.KEY` that the config does not have, naming the nearest one."""
  config = load_config(path)
  known = keys(config)
  for word in argv[1:]:
    match = re.match(r"--?(?:no)?config\.([\w.]+)", word)
    if match and match.group(1) not in known:
      key = match.group(1)
      in_another_section = [k for k in known if k.split(".")[-1] == key] if "." not in key else []
      hint = f" Did you mean {in_another_section[0]!r}?" if in_another_section else nearest(key, known)
      raise ValueError(f"--config.{key}: the config has no such key.{hint}")


def keys(config, prefix=""):
  """All keys of a config, sections included, with dots."""
  found = []
  for key, value in config.items():
    found.append(prefix + key)
    if hasattr(value, "items"):
      found += keys(value, prefix + key + ".")
  return found
