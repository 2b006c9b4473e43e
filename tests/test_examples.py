"""The examples in docstrings run and print what they say."""

import doctest
import importlib
import pkgutil

import pytest

import spectral_jax

# Each defines the flags of a command, of which one process can have only one set.
COMMANDS = tuple(f"spectral_jax.{name}" for name in (
    "main", "compare", "embed", "plan", "report", "sweep", "validate", "variance"))
NAMES = sorted({m.name for m in pkgutil.walk_packages(spectral_jax.__path__, "spectral_jax.")} - set(COMMANDS))


@pytest.mark.parametrize("name", NAMES)
def test_examples(name):
  module = importlib.import_module(name)
  examples = doctest.DocTestFinder().find(module, name)
  runner = doctest.DocTestRunner(optionflags=doctest.ELLIPSIS)
  for example in examples:
    runner.run(example)
  assert runner.summarize().failed == 0
