"""The folder that a run leaves behind: claimed by one process, for one config; files written whole or not at all."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import json
import os
import pathlib
import tempfile
from typing import TYPE_CHECKING

import jax
import numpy as np
from jax.experimental import multihost_utils

from spectral_jax._errors import ConfigError, RunError
from spectral_jax._names import check_mounted
from spectral_jax.defaults import get_defaults

if TYPE_CHECKING:
  from collections.abc import Iterator, Mapping
  from typing import Any

  from spectral_jax._types import Config

CONFIG = "config.json"
SUMMARY = "summary.json"
LONGER = ("\nA run cannot be made longer afterward: its learning rate has followed a schedule made for its length, "
          "down to 0 at the last step, so that more steps would be neither this run nor the longer one. In another "
          "--workdir, train the longer run, or go on from these weights with a schedule of its own: "
          "--config.init_from={folder}")


def is_lead() -> bool:
  """Whether this process writes the files of a run: only the first one does."""
  return jax.process_index() == 0


def worst(value: int) -> int:
  """The largest of the integers that the processes give, in all of them; returns when every process has come here."""
  return value if jax.process_count() == 1 else int(multihost_utils.process_allgather(np.int32(value)).max())


@contextlib.contextmanager
def lead_alone() -> Iterator[bool]:
  """Yields whether this process is to do something for all; the others wait for it at the end.

  Raises:
    RunError: in the others, where the lead failed.
  """
  try:
    yield is_lead()
  except BaseException:
    worst(1)
    raise
  if worst(0):
    raise RunError("the run's first process stopped; its own message says why")


def config_dict(config: Config) -> dict[str, Any]:
  """The config as JSON would give it back: tuples are lists."""
  return json.loads(json.dumps(config.to_dict()))


@contextlib.contextmanager
def claim(folder: str | pathlib.Path, config: Config, *, restart: bool = False) -> Iterator[pathlib.Path]:
  """Yields the folder as a Path, made if need be, with the resolved config in it.

  With `restart` what the folder holds is first moved into a folder `earlier-N` in it.

  Raises:
    ConfigError: it holds a run with another config (the keys that differ are named), or cannot be written.
    RunError: another process is running in it.
  """
  check_mounted("--workdir", folder, written=True)
  folder = pathlib.Path(folder).expanduser().absolute()
  with contextlib.ExitStack() as stack:
    with lead_alone() as alone:
      if alone:
        stack.enter_context(_locked(folder))
        if restart:
          begin_anew(folder)
        _same_config(folder, config_dict(config))
    yield folder


@contextlib.contextmanager
def _locked(folder):
  with _writable(folder):
    folder.mkdir(parents=True, exist_ok=True)
    lock = open(folder / ".lock", "a")  # stays open, and with it the lock, until the process ends in whatever way
  with lock:
    try:
      fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
      if error.errno not in (errno.EAGAIN, errno.EACCES):
        raise
      raise RunError(f"another process is running in {folder}; wait for it or give another --workdir") from None
    yield


def _same_config(folder, config):
  path = folder / CONFIG
  if not path.exists():
    with _writable(folder):
      write_json(path, config)
    return
  now, missing = flat(config), object()
  # A run of an earlier version lacks keys that have come since; it was made as their defaults say. And where None stood
  # for no crop, an empty list does now.
  since = {key: value for key, value in flat(config_dict(get_defaults())).items() if key in now}
  before = since | flat(read_json(path))
  changed = sorted(key for key in before.keys() | now.keys()
                   if before.get(key, missing) != now.get(key, missing)
                   and (before.get(key, missing), now.get(key, missing)) != (None, []))
  if changed:
    lines = [f"  {key}: {before.get(key, '(absent)')!r} there, {now.get(key, '(absent)')!r} now" for key in changed]
    raise ConfigError(
        f"{folder} holds a run with another config; nothing was changed in it.\n" + "\n".join(lines) +
        "\nGive another --workdir, or the same config to go on with that run." +
        (LONGER.format(folder=folder) if {*changed} <= {"epochs", "steps"} else ""))


def read_json(path: pathlib.Path, needed: Mapping[str, type] | None = None) -> dict[str, Any]:
  """The dictionary in a JSON file of a workdir; `needed` are keys that it must have, and the types of their values.

  Raises:
    ConfigError: it holds something else; the message says what can be done.
  """
  try:
    content = json.loads(path.read_bytes())
  except (ValueError, IsADirectoryError, PermissionError) as error:
    raise damaged(path, error) from None
  if not isinstance(content, dict):
    raise damaged(path, "it holds no dictionary")
  lacking = [key for key, kind in (needed or {}).items() if not isinstance(content.get(key), kind)]
  if lacking:
    raise damaged(path, f"it lacks {', '.join(lacking)}")
  return content


def damaged(path: pathlib.Path, why: object) -> ConfigError:
  """The error for a file of a workdir that is not what was written, with what can be done."""
  return ConfigError(f"{path} is damaged ({why}). {_REMEDIES.get(path.name, 'Delete it')}.")


def read_config(folder: str | pathlib.Path) -> Config:
  """The config that a workdir's run was made with; keys that are newer than it have their defaults.

  Raises:
    ConfigError: there is no such folder, no run in it, or its config is damaged.
  """
  check_mounted("workdir", folder)
  folder = pathlib.Path(folder).expanduser().absolute()
  if not folder.is_dir():
    raise ConfigError(f"{folder} is not a folder; name the workdir of a run, such as runs/digits")
  path = folder / CONFIG
  if not path.exists():
    inside = sorted(child.parent.name for child in folder.glob(f"*/{CONFIG}"))
    within = f" It holds workdirs: {', '.join(inside[:8])}." if inside else ""
    raise ConfigError(f"{folder} has no {CONFIG}, so no run was made in it.{within} Name the workdir of a run")
  content = read_json(path)
  if not all(isinstance(content.get(section), dict) for section in ("data", "model", "loss")):
    raise damaged(path, "it lacks the sections data, model and loss")
  config = get_defaults().unlock()
  try:
    config.update(content)
  except (AttributeError, TypeError, ValueError) as error:
    raise damaged(path, error) from error
  return config.lock()


_REMEDIES = {
    CONFIG: "Delete it and give the run's own command again, which writes it again; checkpoints are not touched",
    SUMMARY: "Delete it and give the run's command again, which scores the last checkpoint again",
    **dict.fromkeys(("results.json", "variance.json"), "Give the study's command again, which writes it again")}


def begin_anew(folder: pathlib.Path) -> pathlib.Path:
  """Moves all that a run has left in the folder, but its lock, into a new folder `earlier-N` in it; returns that."""
  earlier = folder / f"earlier-{len(list(folder.glob('earlier-*')))}"
  left = [path for path in folder.iterdir() if path.name != ".lock" and not path.name.startswith("earlier-")]
  if left:
    earlier.mkdir()
    for path in left:
      os.replace(path, earlier / path.name)
  return earlier


def flat(tree: Any, prefix: str = "") -> dict[str, Any]:
  """{'a': {'b': 1}} -> {'a.b': 1}."""
  if not isinstance(tree, dict) or not tree:
    return {prefix: tree}
  return {k: v for key, value in tree.items() for k, v in flat(value, f"{prefix}.{key}" if prefix else key).items()}


@contextlib.contextmanager
def whole(path: str | pathlib.Path) -> Iterator[pathlib.Path]:
  """Yields the path of another file, which takes the place of `path` at the end: it appears whole or not at all."""
  path = pathlib.Path(path)
  part = path.with_name(path.name + ".part")
  yield part
  os.replace(part, path)


def write_text(path: str | pathlib.Path, text: str) -> pathlib.Path:
  """Writes the whole file or nothing, in UTF-8; returns its path."""
  with whole(path) as part:
    part.write_text(text, encoding="utf-8")
  return pathlib.Path(path)


def write_json(path: pathlib.Path, content: Mapping[str, Any]) -> None:
  """Writes the whole file or nothing, past a crash of the machine too."""
  with whole(path) as part, open(part, "w") as file:
    json.dump(content, file, indent=2)
    file.write("\n")
    file.flush()
    os.fsync(file.fileno())


_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


@contextlib.contextmanager
def disk_errors(folder: str | pathlib.Path) -> Iterator[None]:
  """Says plainly that the disk is full, a quota spent or a limit reached, whichever library found out."""
  try:
    yield
  except Exception as error:  # of whatever type a library makes of it; all but a full disk go on as they are
    own = [error.strerror] if isinstance(error, OSError) and error.errno in _FULL else []
    reasons = own or [os.strerror(n) for n in _FULL if os.strerror(n) in str(error)]
    if not reasons:
      raise
    raise RunError(
        f"the disk of {folder} is full ({reasons[0]}); free some space and give the same command again; "
        "a run goes on from its last checkpoint") from error


def writable(folder: str | pathlib.Path) -> pathlib.Path:
  """The folder as a Path, made if need be and with room for a file, before any work is done.

  Raises:
    ConfigError: it cannot be made or written.
  """
  check_mounted("--workdir", folder, written=True)
  folder = pathlib.Path(folder).expanduser().absolute()
  with _writable(folder):
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryFile(dir=folder):
      pass
  return folder


def check_place(flag: str, path: str | pathlib.Path) -> None:
  """Raises ConfigError where no file of that path could be written; before any work is done."""
  path = pathlib.Path(path).absolute()
  if not path.parent.is_dir():
    raise ConfigError(f"{path.parent} is not a folder, so {path} cannot be written; make it or give another {flag}")
  if path.is_dir():
    raise ConfigError(f"{path} is a folder, so no file of that name can be written; give another {flag}")
  try:
    with tempfile.TemporaryFile(dir=path.parent):
      pass
  except OSError as error:
    raise ConfigError(f"{path} cannot be written: {error.strerror}; give another {flag}, or free some space") from error


@contextlib.contextmanager
def _writable(folder):
  try:
    yield
  except OSError as error:
    raise ConfigError(
        f"--workdir={folder} cannot be written: {error.strerror}; "
        "name another folder, or free some space") from error
