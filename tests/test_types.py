"""Everything that users import says what goes in and what comes out; `make lint` has pyright read it."""

import importlib
import inspect

import pytest

MODULES = ("losses", "losses.kernels", "gradients", "bounds", "spectrum", "selection", "metrics", "data", "augment",
           "models", "evaluation", "encoder", "config", "defaults", "mesh", "progress")


def functions_of(name):
  """The functions of `__all__`, or where there is none those that the module defines."""
  module = importlib.import_module(f"spectral_jax.{name}")
  own = [key for key, value in vars(module).items()
         if key[0] != "_" and getattr(value, "__module__", None) == module.__name__]
  members = {key: getattr(module, key) for key in getattr(module, "__all__", own)}
  return {key: value for key, value in members.items() if inspect.isfunction(value)}


@pytest.mark.parametrize("name", MODULES)
def test_every_public_function_is_annotated(name):
  found = functions_of(name)
  assert found
  for key, function in found.items():
    signature = inspect.signature(function)
    assert signature.return_annotation is not inspect.Signature.empty, f"{name}.{key} returns what?"
    for parameter in signature.parameters.values():
      assert parameter.annotation is not inspect.Parameter.empty, f"{name}.{key}({parameter.name}) is not annotated"
