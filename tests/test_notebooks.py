"""The notebooks run from top to bottom and show pictures; those with a cell of parameters run at a reduced size."""

import json
import pathlib

import pytest

ROOT = pathlib.Path(__file__).resolve().parent.parent
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))
# What takes the place of the constants in the cell that is tagged "parameters".
REDUCED = {
    "01_bounds": {"STEPS": 30},
    "02_effective_rank_and_batches": {"DRAWS": 2, "CANDIDATES": (1, 8)},
    "03_losses": {"STEPS": 300, "DRAWS": 20},
    "04_alignment": {"STEPS": 40, "DESCENT": 50},
    "05_use_in_your_project": {"STEPS": 20},
    "06_trained_encoder": {"EPOCHS": 2, "WIDTH": 0.125, "TUNING": 5}}


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_runs_from_top_to_bottom(path, forge, tmp_path):
  pytest.importorskip("IPython")
  notebook = json.loads(path.read_text())
  for cell in notebook["cells"]:
    if "parameters" in cell["metadata"].get("tags", []):
      source = "".join(cell["source"])
      for name, value in REDUCED[path.stem].items():
        assert f"\n{name} = " in "\n" + source, f"{path.stem} has no parameter {name}"
        source += f"\n{name} = {value}"
      cell["source"] = [source]
  reduced = tmp_path / path.name
  reduced.write_text(json.dumps(notebook))
  code, said = forge.run(reduced, path.parent, entry="notebook")
  assert code == 0, said[-5000:]
  # Outputs are kept in the file, and made again here.
  shown = [sum("image/png" in kinds for kinds in cell) for cell in json.loads(reduced.with_suffix(".shown").read_text())]
  kept = [sum("image/png" in output.get("data", {}) for output in cell["outputs"]) for cell in code_of(notebook)]
  assert shown == kept and sum(kept) > 0


def code_of(notebook):
  return [cell for cell in notebook["cells"] if cell["cell_type"] == "code"]


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_kept_outputs_are_whole_and_small(path):
  code = code_of(json.loads(path.read_text()))
  assert [cell["execution_count"] for cell in code] == list(range(1, len(code) + 1))  # run once, in order
  assert not [output for cell in code for output in cell["outputs"] if output["output_type"] == "error"]
  assert path.stat().st_size < 600_000
