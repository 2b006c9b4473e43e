"""Index tables read from files."""

import json

import numpy as np
import pytest

from spectral_jax._errors import ConfigError
from spectral_jax.data.index_table import load_index_table

TABLES = np.stack([np.random.default_rng(seed).permutation(40)[:36].reshape(4, 9) for seed in range(3)])


def write(path, table):
  if path.suffix == ".npy":
    np.save(path, table)
  elif path.suffix == ".npz":
    np.savez(path, table=table, seed=np.arange(3))
  elif path.suffix == ".csv":
    np.savetxt(path, table.reshape(-1, table.shape[-1]), fmt="%d", delimiter=",")
  else:
    path.write_text(json.dumps(table.tolist()))
  return path


@pytest.mark.parametrize("ending", [".npy", ".npz", ".csv", ".json"])
@pytest.mark.parametrize("table", [TABLES, TABLES[0]])
def test_every_format_gives_the_same_table(ending, table, tmp_path):
  got = load_index_table(write(tmp_path / f"table{ending}", table), 40, 9)
  assert got.dtype == np.int32 and np.array_equal(got, table.reshape(-1, 4, 9))


def test_other_forms_of_a_table(tmp_path):
  np.savez(tmp_path / "one.npz", TABLES[0])
  (tmp_path / "named.json").write_text(json.dumps({"table": TABLES[0].tolist(), "made": "by hand"}))
  for name in ("one.npz", "named.json"):
    assert np.array_equal(load_index_table(str(tmp_path / name), 40, 9), TABLES[:1])


@pytest.mark.parametrize("name, content, message", [
    ("table.txt", b"1,2", r"table.txt must end in one of \.npy, \.npz, \.csv, \.json, got '.txt'"),
    ("missing.npy", None, "there is no index table at .*missing.npy"),
    ("garbage.npy", b"not an array", "garbage.npy cannot be used"),
    ("garbage.npz", b"not an archive", "garbage.npz cannot be used"),
    ("empty.npy", b"", "empty.npy cannot be used"),
    ("garbage.json", b"[[1, 2], ", "garbage.json cannot be used"),
    ("binary.json", b"\xff\xfe\x00", "binary.json cannot be used"),
    ("other.json", b'{"batches": [[1]]}', 'under the name "table"'),
    ("number.json", b"7", r"must have shape \(4, 9\)"),
    ("words.json", b'[["a", "b"]]', "must hold integers"),
    ("header.csv", b"a,b\n1,2\n", "header.csv cannot be used"),
    ("ragged.csv", b"1,2\n3\n", "ragged.csv cannot be used"),
    ("short.csv", b"1,2\n3,4\n", r"must have shape \(4, 9\), or \(epochs, 4, 9\).*got \(2, 2\)"),
    ("fractions.csv", b"1.5,2\n3,4\n", "fractions.csv cannot be used"),
])
def test_a_file_that_cannot_be_used_is_named(name, content, message, tmp_path):
  if content is not None:
    (tmp_path / name).write_bytes(content)
  with pytest.raises(ConfigError, match=message):
    load_index_table(tmp_path / name, 40, 9)


def test_archives_are_not_trusted(tmp_path):
  """A pickled object in an array could run code; it is refused."""
  np.save(tmp_path / "object.npy", np.array([{"a": 1}], dtype=object), allow_pickle=True)
  with pytest.raises(ConfigError, match="object.npy cannot be used"):
    load_index_table(tmp_path / "object.npy", 40, 9)
  np.savez(tmp_path / "two.npz", a=TABLES, b=TABLES)
  with pytest.raises(ConfigError, match='2 arrays, a, b; name the table "table"'):
    load_index_table(tmp_path / "two.npz", 40, 9)
