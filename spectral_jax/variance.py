"""Gradient variance with and without whitening, at fixed parameters.

  python -m spectral_jax.variance [--config=configs/NAME.py] [--workdir=DIR] [--batches=50] [--train_steps=100]
                                  [--config.KEY=VALUE ...]

Measures at the initial parameters and after `--train_steps` steps of the config; leaves variance.txt, variance.json,
variance.png and report.html, by default in runs/variance-NAME. With no flag: the digits.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from spectral_jax import command
from spectral_jax.command import flags

if TYPE_CHECKING:
  from spectral_jax._types import Config

BATCHES = flags.DEFINE_integer("batches", 50, "Batches K that the variance is taken over.", lower_bound=2)
TRAIN_STEPS = flags.DEFINE_integer(
    "train_steps", 100, "Steps trained before the second measurement; 0: none.", lower_bound=0)


def main(config: Config, name: str) -> None:
  from spectral_jax.studies.gradient_variance import conduct  # after the flags: a wrong one is reported at once
  conduct(config, name, command.WORKDIR.value or f"runs/variance-{name}", batches=BATCHES.value,
          train_steps=TRAIN_STEPS.value)


if __name__ == "__main__":
  command.run(main)
