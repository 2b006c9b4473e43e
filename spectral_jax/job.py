"""The main job: open, train, score, leave everything in one folder."""

from __future__ import annotations

from typing import TYPE_CHECKING

from spectral_jax import preemption
from spectral_jax.reports import summary
from spectral_jax.training.loop import check_beginning, train
from spectral_jax.training.run import open_run
from spectral_jax.workdir.folder import SUMMARY, claim, disk_errors, worst

if TYPE_CHECKING:
  import pathlib
  from typing import Any

  from spectral_jax._types import Config


def main_job(config: Config, workdir: str | pathlib.Path, *, restart: bool = False) -> dict[str, Any]:
  """Trains and evaluates what `config` describes, or goes on with it where `workdir` holds a part of it.

  Args:
    config: a resolved config.
    workdir: the folder that everything is left in.
    restart: start again; what the folder holds is kept in it under another name.

  Returns:
    The content of `summary.json`.

  Raises:
    ConfigError: a setting that cannot be used, before any work is done.
    RunError: the run cannot go on, for a reason that the message names.
    preemption.Preempted: asked to stop; the same command goes on.
  """
  run = open_run(config)
  check_beginning(run, workdir, restart=restart)
  with claim(workdir, config, restart=restart) as folder, disk_errors(folder), preemption.watched():
    summary.opening(run, folder)
    if not worst(not (folder / SUMMARY).exists()):
      return summary.finished_before(run, folder)
    state, host = train(run, folder)
    return summary.closing(run, state, host, folder)
