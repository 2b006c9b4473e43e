"""The notebooks run from top to bottom and show pictures; those with a cell of parameters run at a reduced size."""

import pathlib

import pytest

from tests import conftest

ROOT = pathlib.Path(__file__).resolve().parent.parent
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))
# What takes the place of the constants in the cell that is tagged "parameters".
REDUCED = {
    "02_effective_rank_and_batches": {"DRAWS": 2, "CANDIDATES": (1, 8)},
    "03_losses": {"STEPS": 300, "DRAWS": 20},
    "04_alignment": {"STEPS": 40, "DESCENT": 50},
    "05_use_in_your_project": {"STEPS": 20},
    "06_trained_encoder": {"EPOCHS": 2, "WIDTH": 0.125, "TUNING": 5}}


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_runs_from_top_to_bottom(path, monkeypatch):
  nbformat, nbclient = pytest.importorskip("nbformat"), pytest.importorskip("nbclient")
  for name, value in (("PYTHONPATH", str(ROOT)), ("JAX_PLATFORMS", "cpu"),
                      ("JAX_COMPILATION_CACHE_DIR", conftest.compiled_folder()),
                      ("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0"), ("JAX_DISABLE_MOST_OPTIMIZATIONS", "true")):
    monkeypatch.setenv(name, value)
  notebook = nbformat.read(path, as_version=4)
  kept = pictures(notebook)
  for cell in notebook.cells:
    if "parameters" in cell.metadata.get("tags", []):
      for name, value in REDUCED[path.stem].items():
        assert f"\n{name} = " in "\n" + cell.source, f"{path.stem} has no parameter {name}"
        cell.source += f"\n{name} = {value}"
  nbclient.NotebookClient(
      notebook, timeout=300, kernel_name="python3", resources={"metadata": {"path": str(path.parent)}}).execute()
  assert pictures(notebook) == kept > 0  # outputs are kept in the file, and made again here


def pictures(notebook):
  return sum("image/png" in output.get("data", {}) for cell in notebook.cells for output in cell.get("outputs", []))


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_kept_outputs_are_whole_and_small(path):
  nbformat = pytest.importorskip("nbformat")
  notebook = nbformat.read(path, as_version=4)
  code = [cell for cell in notebook.cells if cell.cell_type == "code"]
  assert [cell.execution_count for cell in code] == list(range(1, len(code) + 1))  # run once, in order
  assert not [output for cell in code for output in cell.outputs if output.output_type == "error"]
  assert path.stat().st_size < 600_000
