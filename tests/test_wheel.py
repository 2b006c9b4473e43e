"""The wheel: what it holds, and that it works where no checkout is."""

import pathlib
import shutil
import subprocess
import sys
import zipfile

import pytest

ROOT = pathlib.Path(__file__).resolve().parent.parent
SOURCES = ("spectral_jax", "configs", "pyproject.toml", "setup.py", "README.md", "LICENSE")


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
  folder = tmp_path_factory.mktemp("wheel")
  for name in SOURCES:  # a copy: setuptools leaves its own folders beside what it reads
    source = ROOT / name
    if source.is_dir():
      shutil.copytree(source, folder / "tree" / name, ignore=shutil.ignore_patterns("__pycache__"))
    else:
      shutil.copy(source, folder / "tree" / name)
  subprocess.run([sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation", "--no-index",
                  "--wheel-dir", folder, folder / "tree"], check=True)
  return next(folder.glob("*.whl"))


def test_it_puts_one_name_into_the_namespace_and_holds_configs_and_types(wheel):
  names = zipfile.ZipFile(wheel).namelist()
  assert {name.split("/")[0] for name in names if ".dist-info/" not in name} == {"spectral_jax"}
  assert {f"spectral_jax/configs/{path.name}" for path in ROOT.glob("configs/*.py")} <= set(names)
  assert {"spectral_jax/py.typed", "spectral_jax/data/imagenet100.txt"} <= set(names)


def test_it_runs_where_no_checkout_is_and_help_lists_the_flags(wheel, tmp_path):
  zipfile.ZipFile(wheel).extractall(tmp_path / "site")
  program = ("import sys, runpy; sys.path.insert(0, 'site'); import spectral_jax; "
             "assert 'site' in spectral_jax.__file__, spectral_jax.__file__; "
             "sys.argv = ['main', '--config=imagenet100', '--help']; "
             "runpy.run_module('spectral_jax.main', run_name='__main__', alter_sys=True)")
  done = subprocess.run([sys.executable, "-c", program], cwd=tmp_path, capture_output=True, text=True, check=False,
                        env={"PATH": "", "HOME": str(tmp_path)})
  assert done.returncode == 1, done.stderr  # absl's, after help
  for flag in ("--config:", "--workdir:", "--[no]restart:", "site/spectral_jax/configs/imagenet100.py"):
    assert flag in done.stdout, done.stdout + done.stderr


@pytest.mark.parametrize("command", ["main", "validate", "embed"])
def test_without_the_train_extra_a_command_names_it(command):
  program = f"import sys, runpy; sys.modules['absl'] = None; runpy.run_module('spectral_jax.{command}', run_name='__main__')"
  done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=False)
  assert done.returncode == 1
  assert done.stderr == ("Error: absl is not installed; the commands need the train extra: "
                         "pip install 'spectral_jax[train]', or '.[train]' in a checkout\n")
