"""The folder that a run leaves behind: claimed by one process, for one config."""

import contextlib
import errno
import fcntl
import json
import os
import pathlib

CONFIG = "config.json"


def config_dict(config):
  """The config as JSON would give it back: tuples are lists."""
  return json.loads(json.dumps(config.to_dict()))


@contextlib.contextmanager
def claim(folder, config):
  """Yields the folder as a Path, made if need be, with the resolved config in it.

  Raises:
    ValueError: it holds a run with another config (the keys that differ are named), or cannot be written.
    RuntimeError: another process is running in it.
  """
  folder = pathlib.Path(folder).expanduser().absolute()
  with _writable(folder):
    folder.mkdir(parents=True, exist_ok=True)
    lock = open(folder / ".lock", "a")  # stays open, and with it the lock, until the process ends in whatever way
  with lock:
    try:
      fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
      if error.errno not in (errno.EAGAIN, errno.EACCES):
        raise
      raise RuntimeError(f"another process is running in {folder}; wait for it or give another --workdir") from None
    _same_config(folder, config_dict(config))
    yield folder


def _same_config(folder, config):
  path = folder / CONFIG
  if not path.exists():
    with _writable(folder):
      write_json(path, config)
    return
  before = flat(json.loads(path.read_text()))
  now = flat(config)
  missing = object()
  changed = sorted(key for key in before.keys() | now.keys() if before.get(key, missing) != now.get(key, missing))
  if changed:
    lines = [f"  {key}: {before.get(key, '(absent)')!r} there, {now.get(key, '(absent)')!r} now" for key in changed]
    raise ValueError(
        f"{folder} holds a run with another config; nothing was changed in it.\n" + "\n".join(lines) +
        "\nGive another --workdir, or the same config to go on with that run.")


def flat(tree, prefix=""):
  """{'a': {'b': 1}} -> {'a.b': 1}."""
  if not isinstance(tree, dict) or not tree:
    return {prefix: tree}
  return {k: v for key, value in tree.items() for k, v in flat(value, f"{prefix}.{key}" if prefix else key).items()}


def write_json(path, content):
  """Writes the whole file or nothing."""
  part = path.with_name(path.name + ".part")
  with open(part, "w") as file:
    json.dump(content, file, indent=2)
    file.write("\n")
    file.flush()
    os.fsync(file.fileno())
  os.replace(part, path)


_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


@contextlib.contextmanager
def disk_errors(folder):
  """Says plainly that the disk is full, a quota spent or a limit reached, whichever library found out."""
  try:
    yield
  except Exception as error:
    known = isinstance(error, OSError) and error.errno in _FULL
    reasons = [error.strerror] if known else [os.strerror(n) for n in _FULL if os.strerror(n) in str(error)]
    if not reasons:
      raise
    raise RuntimeError(
        f"the disk of {folder} is full ({reasons[0]}); free some space and give the same command again: "
        "the run goes on from its last checkpoint") from error


@contextlib.contextmanager
def _writable(folder):
  try:
    yield
  except OSError as error:
    raise ValueError(
        f"--workdir={folder} cannot be written: {error.strerror}; "
        "name another folder, or free some space") from error
