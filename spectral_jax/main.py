"""Trains an encoder without labels and says what its features are worth.

  python -m spectral_jax.main [--config=configs/NAME.py] [--workdir=DIR] [--config.KEY=VALUE ...]

With no flag it runs configs/mnist.py: 5,000 real handwritten digits, a minute or two.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from spectral_jax import command
from spectral_jax.command import flags

if TYPE_CHECKING:
  from spectral_jax._types import Config

RESTART = flags.DEFINE_bool("restart", False,
                            "Start again in a workdir that holds a run; what it holds is kept in a subfolder.")


def main(config: Config, name: str) -> None:
  from spectral_jax.job import main_job  # after the flags: a wrong one is reported at once
  main_job(config, command.WORKDIR.value or f"runs/{name}", restart=RESTART.value)


if __name__ == "__main__":
  command.run(main, default="mnist")
