"""One page of a run, of several side by side, or of a study: what they left in their folders.

  python -m spectral_jax.report WORKDIR [WORKDIR ...] [--out=report.html]

By default the page of one folder is its report.html; that of several is report.html here. It needs no network, is light
or dark as the reader's system is, and is the same bytes whenever it is made from the same files.
"""

from __future__ import annotations

import pathlib
from typing import TYPE_CHECKING

from spectral_jax import command
from spectral_jax._errors import ConfigError
from spectral_jax.command import flags

if TYPE_CHECKING:
  from collections.abc import Sequence

OUT = flags.DEFINE_string(
    "out", None, "The page; by default report.html in the folder, or here where there are several.")


def main(words: Sequence[str]) -> None:
  if not words:
    raise ConfigError("name one or more workdirs, as in `python -m spectral_jax.report runs/digits`")
  from spectral_jax.reports import report  # after the flags: a wrong one is answered at once
  from spectral_jax.studies import study_page, variance_page
  from spectral_jax.workdir.folder import check_place, disk_errors
  folder = pathlib.Path(words[0]).expanduser()
  path = pathlib.Path(OUT.value or (folder / "report.html" if len(words) == 1 else "report.html"))
  if not OUT.value and not path.absolute().parent.is_dir():
    raise ConfigError(f"{path.absolute().parent} is not a folder; name the workdir of a run, or another --out")
  check_place("--out", path)
  studies = [word for word in words if study_page.is_study(word) or variance_page.is_variance(word)]
  if studies and len(words) > 1:
    raise ConfigError(f"{', '.join(studies)}: a study has a page of its own; name it alone, or runs of it, as in "
                      f"{studies[0]}/*/")
  with disk_errors(path.absolute().parent):
    if len(words) == 1 and study_page.is_study(folder):
      study_page.write(path, folder)
    elif len(words) == 1 and variance_page.is_variance(folder):
      variance_page.write(path, folder)
    else:
      report.write(path, words)
  print(f"Written: {path}, {path.stat().st_size / 2**20:.2f} MiB")


if __name__ == "__main__":
  command.run_on_workdirs(main)
