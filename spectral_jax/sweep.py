"""Runs of a config for every combination of values that some of its keys are to take.

  python -m spectral_jax.sweep --config=configs/NAME.py
      --over='loss.temperature=0.1,0.5,1;data.classes=2,5,10;seed=0,1,2'
      [--show=linear_accuracy,test_encoder_cka] [--workdir=DIR] [--page=docs/NAME.md] [--config.KEY=VALUE ...]

Each combination is a run in a folder of its own; cells that differ in temperature, learning rate or seed share what is
compiled. Leaves results.json (all that was measured at every evaluation, the failures, the classes of each run),
table.md and pictures, means and confidence intervals over the seeds. Runs that are there already are not repeated, so a
sweep that was stopped goes on with the same command, and values can be added.
"""

from __future__ import annotations

import pathlib
from typing import TYPE_CHECKING

from spectral_jax import command
from spectral_jax.command import flags

if TYPE_CHECKING:
  from spectral_jax._types import Config

OVER = flags.DEFINE_string("over", "", "Keys of the config and the values of each: 'KEY=VALUE,VALUE;KEY=VALUE,...'.")
SHOW = flags.DEFINE_list(
    "show", "linear_accuracy,few_shot_accuracy,test_encoder_cka,test_encoder_rsa,weight_gap,test_projector_uniformity",
    "Metrics of table and pictures, without the names of learners; results.json has all.")
SWEEP_PAGE = flags.DEFINE_string("page", None, "A page of results that gets or renews this sweep's section.")


def main(config: Config, name: str) -> None:
  from spectral_jax.studies import grid  # after the flags: a wrong one is answered at once
  axes = grid.parse(OVER.value, config)
  cells = grid.cells(config, axes)

  from spectral_jax.studies.study import conduct, publish
  from spectral_jax.studies.sweeping import study_of
  study = study_of(config, axes, cells, SHOW.value)
  folder = pathlib.Path(command.WORKDIR.value or f"runs/sweep-{name}")
  content = conduct(study, config, folder)
  if SWEEP_PAGE.value:
    title = f"{name} over {', '.join(key for key in axes if key != grid.SEED)}"
    publish(pathlib.Path(SWEEP_PAGE.value), folder.name, title, study, content, folder)


if __name__ == "__main__":
  command.run(main)
