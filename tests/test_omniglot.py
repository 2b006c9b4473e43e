"""The script that sorts Omniglot's archive into class folders."""

import importlib.util
import pathlib
import zipfile

import pytest

SCRIPT = pathlib.Path(__file__).resolve().parent.parent / "benchmarks" / "omniglot.py"


@pytest.fixture(scope="module")
def omniglot():
  spec = importlib.util.spec_from_file_location("omniglot", SCRIPT)
  module = importlib.util.module_from_spec(spec)
  spec.loader.exec_module(module)
  return module


def archive(path, alphabets, drawers=20):
  """An archive of the published layout; an image is the name of what it shows."""
  with zipfile.ZipFile(path, "w") as images:
    for alphabet in alphabets:
      for drawer in range(1, drawers + 1):
        name = f"images_background/{alphabet}/character03/0107_{drawer:02d}.png"
        images.writestr(name, name)
  return path


def test_drawings_of_one_person_are_on_one_side(omniglot, tmp_path):
  path = archive(tmp_path / "images.zip", ["Greek", "Japanese_(katakana)", "Gujarati"])
  assert omniglot.sort(path, tmp_path / "out") == (2, 40)
  files = sorted(str(p.relative_to(tmp_path / "out")) for p in (tmp_path / "out").rglob("*.png"))
  names = ("Greek_03", "Japanese_katakana_03")
  assert files == sorted([f"train/{n}/{i:02d}.png" for n in names for i in range(15)]
                         + [f"test/{n}/{i:02d}.png" for n in names for i in range(15, 20)])
  assert (tmp_path / "out/test/Greek_03/17.png").read_text().endswith("Greek/character03/0107_18.png")


def test_another_archive_is_named(omniglot, tmp_path, monkeypatch):
  monkeypatch.setattr("sys.argv", ["omniglot.py", str(archive(tmp_path / "other.zip", ["Greek"], 7)), str(tmp_path / "out")])
  with pytest.raises(SystemExit, match="7 images of 1 characters, 20 of each were expected; it should be"):
    omniglot.main()
