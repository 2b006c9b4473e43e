"""Layers point one way: the mathematics imports JAX and nothing heavier."""

import pathlib
import re
import subprocess
import sys

import pytest

ROOT = pathlib.Path(__file__).resolve().parent.parent
MATHEMATICS = ("bounds", "gradients", "losses", "metrics", "selection", "spectrum")
HEAVY = ("tensorflow", "tensorflow_datasets", "flax", "optax", "orbax", "matplotlib", "sklearn", "ml_collections",
         "PIL", "jaxtyping")


@pytest.mark.parametrize("module", MATHEMATICS)
def test_a_mathematics_module_imports_jax_alone(module):
  script = f"import sys, spectral_jax.{module}; print(*(m for m in {HEAVY} if m in sys.modules))"
  output = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=True).stdout
  assert output.split() == []


# From the lowest to the highest: a module may import those of lower layers, and of its own package.
LAYERS = (
    ("_errors", "_types"),
    ("_names",),
    ("_anchors", "_arrays", "_defaults", "_eager", *MATHEMATICS),
    ("config", "defaults", "mesh", "preemption", "progress"),
    ("distributed",),
    ("augment",),
    ("data", "models"),
    ("evaluation",),
    ("workdir",),
    ("embedding", "encoder"),
    ("training",),
    ("reports",),
    ("studies",),
    ("command", "job"),
    ("compare", "embed", "main", "plan", "report", "sweep", "validate", "variance"),
)


def imports_of(path):
  """Names of the package's own modules and packages that a file imports, inside functions too."""
  lines = [line for line in path.read_text().splitlines() if re.match(r"\s*(from|import) spectral_jax", line)]
  found = set()
  for line in lines:
    match = re.match(r"\s*from spectral_jax import (.*)", line)
    found |= {name.split()[0] for name in match.group(1).strip("()").split(",") if name.strip()} if match else set(
        re.findall(r"spectral_jax\.(\w+)", line)[:1])
  return found


def test_layers_point_one_way():
  rank = {name: i for i, layer in enumerate(LAYERS) for name in layer}
  package = ROOT / "spectral_jax"
  for path in package.rglob("*.py"):
    of = path.relative_to(package).parts[0].removesuffix(".py")
    if of == "__init__":
      continue
    assert of in rank, f"{path} belongs to no layer"
    for name in imports_of(path):
      assert name == of or rank[name] < rank[of] or rank[of] == rank[name] == rank["losses"], f"{path} imports {name}"
