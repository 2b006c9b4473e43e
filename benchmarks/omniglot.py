"""Sorts Omniglot's published archive into the class folders that configs/omniglot.py reads: 242 characters of 8 alphabets.

  curl -LO https://github.com/brendenlake/omniglot/raw/master/python/images_background.zip
  python benchmarks/omniglot.py images_background.zip data/omniglot

Every character was drawn by 20 people: the first 15 drawings go to data/omniglot/train/CLASS, the last 5 to
data/omniglot/test/CLASS, so that nobody's hand is in both. Lake, Salakhutdinov and Tenenbaum 2015, MIT license.
"""

import argparse
import pathlib
import re
import sys
import zipfile

ALPHABETS = ("Balinese", "Early_Aramaic", "Greek", "Japanese_(katakana)", "Korean", "Latin", "Sanskrit", "Tagalog")
DRAWERS, TRAINED = 20, 15


def sort(archive, folder):
  """Writes the images of `archive` into `folder`; returns how many classes and images there are."""
  classes, count = set(), 0
  with zipfile.ZipFile(archive) as images:
    for name in images.namelist():
      match = re.search(r"([^/]+)/character(\d+)/\d+_(\d+)\.png$", name)
      if not match or match[1] not in ALPHABETS:
        continue
      own, drawer = f"{re.sub('[()]', '', match[1])}_{match[2]}", int(match[3])
      target = folder / ("train" if drawer <= TRAINED else "test") / own
      target.mkdir(parents=True, exist_ok=True)
      (target / f"{drawer - 1:02d}.png").write_bytes(images.read(name))
      classes.add(own)
      count += 1
  return len(classes), count


def main():
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  parser.add_argument("archive", type=pathlib.Path)
  parser.add_argument("folder", type=pathlib.Path)
  options = parser.parse_args()
  classes, count = sort(options.archive, options.folder.expanduser())
  if count != classes * DRAWERS or not count:
    sys.exit(f"{options.archive} has {count} images of {classes} characters, {DRAWERS} of each were expected; "
             "it should be images_background.zip")
  print(f"{options.folder}: {classes} classes, {count} images")


if __name__ == "__main__":
  main()
