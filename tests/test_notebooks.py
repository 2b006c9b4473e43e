"""The notebooks run from top to bottom and show pictures."""

import pathlib

import pytest

ROOT = pathlib.Path(__file__).resolve().parent.parent
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_runs_from_top_to_bottom(path, monkeypatch):
  nbformat, nbclient = pytest.importorskip("nbformat"), pytest.importorskip("nbclient")
  monkeypatch.setenv("PYTHONPATH", str(ROOT))
  monkeypatch.setenv("JAX_PLATFORMS", "cpu")
  monkeypatch.setenv("SPECTRAL_JAX_QUICK", "1")  # fewer steps, where a notebook trains long
  notebook = nbformat.read(path, as_version=4)
  kept = sum("image/png" in output.get("data", {}) for cell in notebook.cells for output in cell.get("outputs", []))
  nbclient.NotebookClient(
      notebook, timeout=300, kernel_name="python3", resources={"metadata": {"path": str(path.parent)}}).execute()
  shown = sum("image/png" in output.get("data", {}) for cell in notebook.cells for output in cell.get("outputs", []))
  assert shown == kept > 0  # outputs are kept in the file, and made again here
