"""Everything that users import says what goes in and what comes out; `make lint` has pyright read it."""

import ast
import importlib
import inspect
import pathlib

import pytest

ROOT = pathlib.Path(__file__).resolve().parent.parent / "spectral_jax"
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


def bare(function, method):
  """What of a definition has no annotation."""
  given = function.args
  own = [*given.posonlyargs, *given.args][method and not any(
      isinstance(one, ast.Name) and one.id == "staticmethod" for one in function.decorator_list):]
  others = [one for one in (*given.kwonlyargs, given.vararg, given.kwarg) if one]
  return [one.arg for one in (*own, *others) if one.annotation is None] + ["returns"] * (function.returns is None)


# Files whose names begin with an underscore are a package's own.
@pytest.mark.parametrize("path", sorted(ROOT.rglob("[!_]*.py")), ids=lambda path: str(path.relative_to(ROOT)))
def test_public_functions_and_methods_of_every_file_are_annotated(path):
  found = []
  for node in ast.parse(path.read_text()).body:
    within = node.body if isinstance(node, ast.ClassDef) else [node]
    if not getattr(node, "name", "_").startswith("_"):
      found += [(f"{path.name}:{one.lineno} {one.name}", bare(one, one is not node)) for one in within
                if isinstance(one, ast.FunctionDef) and (one.name == "__call__" or not one.name.startswith("_"))]
  assert [(name, what) for name, what in found if what] == []
