"""The examples in docstrings run and print what they say."""

import ast
import doctest
import importlib
import importlib.util
import pathlib
import pkgutil

import pytest

import spectral_jax

# Each defines the flags of a command, of which one process can have only one set.
COMMANDS = tuple(f"spectral_jax.{name}" for name in (
    "main", "compare", "embed", "plan", "report", "sweep", "validate", "variance"))
BENCHMARKS = pathlib.Path(__file__).resolve().parent.parent / "benchmarks"
NAMES = sorted({m.name for m in pkgutil.walk_packages(spectral_jax.__path__, "spectral_jax.")} - set(COMMANDS))


@pytest.mark.parametrize("name", NAMES)
def test_examples(name):
  module = importlib.import_module(name)
  examples = doctest.DocTestFinder().find(module, name)
  runner = doctest.DocTestRunner(optionflags=doctest.ELLIPSIS)
  for example in examples:
    runner.run(example)
  assert runner.summarize().failed == 0


@pytest.mark.parametrize("script", sorted(BENCHMARKS.glob("*.py")), ids=lambda path: path.stem)
def test_benchmarks_import_what_is_there(script):
  """They are run now and then only: a name that has moved would be found by whoever needs the figures."""
  for node in ast.walk(ast.parse(script.read_text())):
    if isinstance(node, ast.ImportFrom) and node.module.startswith(("spectral_jax", "benchmarks")):
      module = importlib.import_module(node.module)
      for alias in node.names:
        assert hasattr(module, alias.name) or importlib.util.find_spec(f"{node.module}.{alias.name}"), ast.unparse(node)
