"""Settings for the whole suite: eight fake devices, so that sharded code runs as it would on eight chips."""

import os
import pathlib

os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import jax
import pytest

jax.config.update("jax_num_cpu_devices", 8)


@pytest.fixture(scope="session")
def shared_data():
  """The folder of real images that some tests read; they skip where it is missing."""
  default = pathlib.Path(__file__).resolve().parent.parent.parent / "shared" / "data"
  folder = pathlib.Path(os.environ.get("SPECTRAL_JAX_SHARED", default))
  if not folder.is_dir():
    pytest.skip(f"no folder of real images at {folder}; set SPECTRAL_JAX_SHARED to one")
  return folder
