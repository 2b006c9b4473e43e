"""Which classes of a data set are used, and checks that they can be learned from."""

from __future__ import annotations

import hashlib
import importlib.resources
from typing import TYPE_CHECKING

import numpy as np

from spectral_jax._errors import ConfigError
from spectral_jax._names import nearest

if TYPE_CHECKING:
  from collections.abc import Sequence

SUBSETS = ("imagenet100",)


def check_classes(classes: str | int | None) -> int | tuple[str, ...] | None:
  """Raises ConfigError unless `classes` is what `config.data.classes` can be.

  Returns:
    None for all classes, an integer for so many of them, or a tuple of names.

  >>> check_classes(""), check_classes("10"), len(check_classes("imagenet100"))
  (None, 10, 100)
  """
  if classes is None or classes == "":
    return None
  if (isinstance(classes, (int, np.integer)) and not isinstance(classes, bool)) or str(classes).lstrip("-").isdecimal():
    if int(classes) < 2:
      raise ConfigError(f"config.data.classes={classes!r} leaves nothing to tell apart; a number of classes is at "
                        "least 2, and '' stands for all")
    return int(classes)
  if classes not in SUBSETS:
    raise ConfigError(f"config.data.classes={classes!r} is not known.{nearest(classes, SUBSETS)} It must be '' for all "
                      f"classes, a number of them, or one of {', '.join(map(repr, SUBSETS))}")
  return tuple((importlib.resources.files("spectral_jax.data") / f"{classes}.txt").read_text().split())


def choose(names: Sequence[str], classes: str | int | None, where: object, data_name: str) -> tuple[str, ...]:
  """The classes that `config.data.classes` asks for, in the data set's order.

  "imagenet100" is the list of Tian et al. 2019 (arXiv 1906.05849), WordNet ids from github.com/HobbitLong/CMC. A number
  N takes the N classes whose hash SHA-256(`data_name`/name) is smallest: the same in every run and on every machine,
  and those of a smaller N are among those of a larger one, so that a sweep over N adds classes.

  Args:
    names: all names.
    classes: `config.data.classes`.
    where: what lacks a class, for the error.
    data_name: `config.data.name`.

  Returns:
    A tuple of names.

  Raises:
    ConfigError: if there are fewer classes than are asked for, or a named one is missing.

  >>> choose(["ant", "bee", "cat"], 2, "here", "pets"), choose(["ant", "bee", "cat"], "", "here", "pets")
  (('ant', 'cat'), ('ant', 'bee', 'cat'))
  """
  wanted = check_classes(classes)
  if wanted is None:
    return tuple(names)
  if isinstance(wanted, int):
    if wanted > len(names):
      raise ConfigError(f"config.data.classes={classes!r} asks for {wanted} classes, but {where} has {len(names)}; "
                        "ask for fewer, or set it to '' for all")
    wanted = sorted(names, key=lambda name: hashlib.sha256(f"{data_name}/{name}".encode()).hexdigest())[:wanted]
  missing = sorted(set(wanted) - set(names))
  if missing:
    raise ConfigError(f"config.data.classes={classes!r} needs {len(wanted)} classes, but {where} lacks "
                      f"{len(missing)} of them, {_few(missing)}; fetch them or set config.data.classes to ''")
  return tuple(name for name in names if name in set(wanted))


def check_counts(labels: np.ndarray, names: Sequence[str], where: object) -> None:
  """Raises if a class has fewer than two images to learn from: it has no neighbor to be told apart by."""
  counts = np.bincount(labels[labels >= 0], minlength=len(names))
  for few, what in ((0, "no images"), (1, "one image")):
    found = [name for name, count in zip(names, counts) if count == few]
    if found:
      raise ConfigError(f"{len(found)} of the {len(names)} classes in {where} have {what}: {_few(found)}; "
                        "a class needs at least two training images. Add images to it or remove the class")


def _few(names):
  return ", ".join(map(repr, names[:5])) + (", ..." if len(names) > 5 else "")
