"""Settings for the whole suite: eight fake devices, so that sharded code runs as it would on eight chips."""

import gc
import os
import pathlib

os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import jax
import pytest
from jax.experimental.compilation_cache import compilation_cache

from tests import kept

jax.config.update("jax_num_cpu_devices", 8)
gc.set_threshold(200_000, 20, 20)  # tracing makes many objects and hardly a cycle: a tenth of the time goes into looking
if jax.__version_info__ < (0, 11):  # the last with XLA's older emitters for CPU; they compile in two thirds of the time
  _flag = "--xla_cpu_use_fusion_emitters=false"
  if _flag not in os.environ.get("XLA_FLAGS", ""):  # a worker has it already; twice, it would be another program to JAX
    os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} {_flag}"

kept.read_back_for_one_device_only()


@pytest.fixture(scope="session")
def shared_data():
  """The folder of real images that some tests read; they skip where it is missing."""
  default = pathlib.Path(__file__).resolve().parent.parent.parent / "shared" / "data"
  folder = pathlib.Path(os.environ.get("SPECTRAL_JAX_SHARED", default))
  if not folder.is_dir():
    pytest.skip(f"no folder of real images at {folder}; set SPECTRAL_JAX_SHARED to one")
  return folder


def pytest_sessionstart(session):
  if not hasattr(session.config, "workerinput"):
    kept.forget_old()


@pytest.fixture(scope="module", autouse=True)
def quick_compilation(request):
  """Most steps run once: not worth optimizing. A module with OPTIMIZED = True opts out."""
  jax.config.update("jax_disable_most_optimizations", not getattr(request.module, "OPTIMIZED", False))
  jax.config.update("jax_compilation_cache_dir", kept.folder())
  jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
  compilation_cache.reset_cache()
  yield
  # A process may map only so many pieces of memory, and every compiled program holds some.
  jax.clear_caches()


@pytest.fixture(scope="session")
def forge(tmp_path_factory):
  """Starts real processes of the main command, quickly; see tests/forge.py."""
  from tests.forge import Forge
  base = tmp_path_factory.getbasetemp()
  forge = Forge(base / "forge", kept.folder())
  yield forge
  forge.close()


@pytest.fixture(scope="session")
def undisturbed(forge, tmp_path_factory):
  """What a run of `runs.SETTINGS` leaves that nobody disturbs."""
  from tests import runs
  folder = tmp_path_factory.mktemp("undisturbed")
  code, said = forge.run(*runs.flags(runs.SETTINGS, folder), entry="train")
  assert code == 0, said
  return runs.left(folder)


@pytest.fixture(scope="module")
def one_device_jobs():
  """Main jobs of this module run on one device: what it compiles is kept, and what eight do is another test's matter."""
  from spectral_jax.mesh import make_mesh
  from spectral_jax.training import run
  with pytest.MonkeyPatch.context() as patch:
    patch.setattr(run, "make_mesh", lambda model_parallel=1: make_mesh(model_parallel, jax.devices()[:model_parallel]))
    yield
