"""Signs of life: a bar on a terminal, and a line now and then where standard error is a file."""

from __future__ import annotations

import contextlib
import sys
from typing import TYPE_CHECKING

import tqdm

if TYPE_CHECKING:
  from collections.abc import Iterator


class Lines:
  """Standard error where it is a file: one line after another instead of one redrawn, none twice."""

  _last = ""

  def write(self, text: str) -> None:
    text = text.strip()
    if text and text != self._last:
      print(text, file=sys.stderr)
      self._last = text

  def flush(self) -> None:
    sys.stderr.flush()


def bar(what: str, total: int, *, unit: str = "images", initial: int = 0, bar_format: str | None = None,
        delay: float = 1.0, leave: bool = False, disable: bool = False) -> tqdm.tqdm:
  """Returns a tqdm bar for `total` things; short work shows none, long work a line every ten seconds in a file.

  >>> with bar("decoding", 3) as progress:
  ...   for _ in range(3):
  ...     progress.update()
  """
  terminal = sys.stderr.isatty()
  return tqdm.tqdm(
      total=total, initial=initial, desc=what, unit=f" {unit}", leave=leave, delay=delay, disable=disable,
      file=sys.stderr if terminal else Lines(), dynamic_ncols=terminal, mininterval=0.2 if terminal else 10.0,
      bar_format=bar_format or "{desc}: {percentage:3.0f}%  {n_fmt}/{total_fmt}{unit}  {remaining} left")


@contextlib.contextmanager
def doing(what: str) -> Iterator[None]:
  """Says `what` is under way, for work of unknown length such as compiling; silent where nobody watches a terminal.

  >>> with doing("compiling"):
  ...   pass
  """
  watched = sys.stderr.isatty()
  if watched:
    print(f"\r{what} ...", end="\r", file=sys.stderr, flush=True)
  try:
    yield
  finally:
    if watched:
      print("\x1b[2K", end="\r", file=sys.stderr, flush=True)
