"""Layers point one way: the mathematics imports JAX and nothing heavier."""

import pathlib
import re
import subprocess
import sys

import pytest

ROOT = pathlib.Path(__file__).resolve().parent.parent
MATHEMATICS = ("bounds", "gradients", "losses", "metrics", "selection", "spectrum")
HEAVY = ("tensorflow", "tensorflow_datasets", "flax", "optax", "orbax", "matplotlib", "sklearn", "ml_collections", "PIL")


@pytest.mark.parametrize("module", MATHEMATICS)
def test_a_mathematics_module_imports_jax_alone(module):
  script = f"import sys, spectral_jax.{module}; print(*(m for m in {HEAVY} if m in sys.modules))"
  output = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=True).stdout
  assert output.split() == []


LAYERS = {
    "mathematics": [ROOT / "spectral_jax" / f"{name}.py" for name in MATHEMATICS] + [
        path for name in MATHEMATICS for path in (ROOT / "spectral_jax" / name).glob("*.py")],
    "models and data": [path for name in ("augment", "data", "models") for path in (ROOT / "spectral_jax" / name).glob("*.py")],
}
ABOVE = {
    "mathematics": ("augment", "data", "models", "evaluation", "training", "comparison", "main", "compare", "validate", "variance"),
    "models and data": ("evaluation", "training", "comparison", "main", "compare", "validate", "variance"),
}


@pytest.mark.parametrize("layer", LAYERS)
def test_a_layer_does_not_know_those_above_it(layer):
  files = [path for path in LAYERS[layer] if path.exists()]
  assert len(files) > 10
  for path in files:
    imported = set(re.findall(r"spectral_jax[. ](?:import )?(\w+)", "\n".join(
        line for line in path.read_text().splitlines() if re.match(r"\s*(from|import) ", line))))
    assert not imported & set(ABOVE[layer]), path
