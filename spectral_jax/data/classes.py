"""Which classes of a data set are used, and checks that they can be learned from."""

import importlib.resources

import numpy as np

from spectral_jax._names import check_name

SUBSETS = ("imagenet100",)


def wanted_classes(classes):
  """The class names that `config.data.classes` stands for; None for all.

  "imagenet100" is the list of Tian et al. 2019 (arXiv 1906.05849), WordNet ids from github.com/HobbitLong/CMC.

  >>> len(wanted_classes("imagenet100")), wanted_classes("")
  (100, None)
  """
  check_name("data.classes", classes, ("", *SUBSETS))
  if not classes:
    return None
  return tuple((importlib.resources.files("spectral_jax.data") / f"{classes}.txt").read_text().split())


def choose(names, classes, where):
  """The names of `where` that `config.data.classes` asks for, in their order; raises if any is missing."""
  wanted = wanted_classes(classes)
  if wanted is None:
    return tuple(names)
  missing = sorted(set(wanted) - set(names))
  if missing:
    raise ValueError(f"config.data.classes={classes!r} needs {len(wanted)} classes, but {where} lacks "
                     f"{len(missing)} of them, {_few(missing)}; fetch them or set config.data.classes to ''")
  return tuple(name for name in names if name in set(wanted))


def check_counts(labels, names, where):
  """Raises if a class has fewer than two images to learn from: it has no neighbour to be told apart by."""
  counts = np.bincount(labels[labels >= 0], minlength=len(names))
  for few, what in ((0, "no images"), (1, "one image")):
    found = [name for name, count in zip(names, counts) if count == few]
    if found:
      raise ValueError(f"{len(found)} of the {len(names)} classes in {where} have {what}: {_few(found)}; "
                       "a class needs at least two training images. Add images to it or remove the class")


def _few(names):
  return ", ".join(map(repr, names[:5])) + (", ..." if len(names) > 5 else "")
