"""Prepared TensorFlow Datasets: file formats, several files, no test part, class subsets, broken records."""

import importlib.util
import io

import ml_collections
import numpy as np
import pytest
from PIL import Image

from spectral_jax.data import open_dataset, records
from spectral_jax.data.classes import check_classes

# Imported where they are used: the worker that runs these tests waits for them alone.
pytestmark = pytest.mark.skipif(not all(map(importlib.util.find_spec, ("tensorflow", "tensorflow_datasets"))),
                                reason="needs the tf extra")


def config(data_dir, **changes):
  return ml_collections.ConfigDict(dict(
      name="tiny", data_dir=str(data_dir), image_size=12, path="stream", test_fraction=0.25, classes="",
      on_undecodable="error") | changes)


def jpeg(seed):
  image = np.random.default_rng(seed).integers(0, 256, (14 + seed % 3, 12, 3), dtype=np.uint8)
  buffer = io.BytesIO()
  Image.fromarray(image).save(buffer, "jpeg", quality=95)
  return buffer.getvalue()


def prepare(data_dir, parts, names, *, name="tiny", file_format="tfrecord", broken=()):
  """Writes `parts`: split name -> labels, in two files each. Image i of a part is `jpeg(i)`, unless it is broken."""
  import tensorflow_datasets as tfds
  features = tfds.features.FeaturesDict({
      "image": tfds.features.Image(shape=(None, None, 3), encoding_format="jpeg"),
      "label": tfds.features.ClassLabel(names=list(names)),
      "file_name": tfds.features.Text()})
  folder = data_dir / name / "1.0.0"
  folder.mkdir(parents=True)
  infos = []
  for part, labels in parts.items():
    records = []
    for i, label in enumerate(labels):
      image = io.BytesIO(b"broken" if i in broken else jpeg(i))
      records.append(features.serialize_example(features.encode_example(
          {"image": image, "label": int(label), "file_name": str(i)})))
    shards = [records[:len(records) // 2], records[len(records) // 2:]]
    for i, shard in enumerate(shards):
      write(folder / f"{name}-{part}.{file_format}-{i:05}-of-00002", shard)
    infos.append(tfds.core.SplitInfo(name=part, shard_lengths=[len(shard) for shard in shards], num_bytes=0))
  tfds.folder_dataset.write_metadata(
      data_dir=str(folder), features=features, split_infos=infos,
      filename_template="{DATASET}-{SPLIT}.{FILEFORMAT}-{SHARD_X_OF_Y}", check_data=False)


def write(path, records):
  if "array_record" in path.name:
    writer = pytest.importorskip("array_record.python.array_record_module").ArrayRecordWriter(str(path), "group_size:1")
  else:
    import tensorflow as tf
    writer = tf.io.TFRecordWriter(str(path))
  for record in records:
    writer.write(record)
  writer.close()


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
  monkeypatch.setenv("SPECTRAL_JAX_CACHE", str(tmp_path / "cache"))


LABELS = [0, 1, 2, 2, 1, 0, 0, 1, 2, 1, 0, 2]


@pytest.mark.parametrize("file_format", ["tfrecord", "array_record"])
def test_both_paths_and_formats_read_the_same(tmp_path, file_format):
  prepare(tmp_path, {"train": LABELS, "validation": [2, 0, 1]}, "abc", file_format=file_format)
  streamed, resident = (open_dataset(config(tmp_path, path=path)) for path in ("stream", "resident"))
  for part in ("train", "test"):
    one, other = getattr(streamed, part), getattr(resident, part)
    np.testing.assert_array_equal(one.labels, other.labels)
    np.testing.assert_array_equal(one.images(), other.images())
  assert streamed.train.labels.tolist() == LABELS and streamed.test.labels.tolist() == [2, 0, 1]
  assert streamed.train.encoded.read(np.array([7, 2])) == [jpeg(7), jpeg(2)]
  assert streamed.class_names == ("a", "b", "c")
  # The second time the index comes from the cache; the same records again.
  assert list((tmp_path / "cache").iterdir())
  again = open_dataset(config(tmp_path)).train
  assert again.encoded.read(np.arange(12)) == [jpeg(i) for i in range(12)]


def test_a_missing_test_part_is_held_out(tmp_path):
  prepare(tmp_path, {"train": LABELS}, "abc")
  streamed, resident = (open_dataset(config(tmp_path, path=path)) for path in ("stream", "resident"))
  assert streamed.train.size == 9 and np.bincount(streamed.test.labels).tolist() == [1, 1, 1]
  np.testing.assert_array_equal(streamed.test.images(), resident.test.images())
  batch = next(iter(streamed.test.stream([[2, 0]], views=2)))
  np.testing.assert_array_equal(batch["labels"], resident.test.labels[[2, 0]])


def test_imagenet100_is_taken_out_of_a_larger_data_set(tmp_path):
  wanted = check_classes("imagenet100")
  names = ["n00000000", *wanted]
  prepare(tmp_path, {"train": list(range(101)) * 2, "test": range(101)}, names, name="imagenet2012")
  for path in ("stream", "resident"):
    data = open_dataset(config(tmp_path, name="imagenet2012", classes="imagenet100", path=path))
    assert data.class_names == wanted and data.train.size == 200 and data.test.size == 100
    assert data.train.labels.tolist() == list(range(100)) * 2
  streamed = open_dataset(config(tmp_path, name="imagenet2012", classes="imagenet100"))
  assert streamed.test.encoded.read(np.array([0])) == [jpeg(1)]


@pytest.mark.parametrize("path", ["stream", "resident"])
def test_a_broken_record_is_named_and_skipped_only_on_request(tmp_path, path):
  prepare(tmp_path, {"train": LABELS, "test": LABELS[:3]}, "abc", broken=[4])
  with pytest.raises(ValueError, match="cannot decode record 4 of tiny's train"):
    open_dataset(config(tmp_path, path=path))
  data = open_dataset(config(tmp_path, path=path, on_undecodable="skip"))
  assert data.train.skipped == ("record 4 of tiny's train",)
  assert data.train.labels.tolist() == LABELS[:4] + LABELS[5:] and len(data.train.images()) == 11


def test_a_cut_file_is_named(tmp_path):
  prepare(tmp_path, {"train": LABELS, "test": LABELS[:3]}, "abc")
  file = next(tmp_path.rglob("*train*00001-of*"))
  file.write_bytes(file.read_bytes()[:-100])
  with pytest.raises(ValueError, match="ends inside record 5"):
    open_dataset(config(tmp_path))


def test_fields_of_every_wire_type_are_found_and_passed_over():
  message = b"\x08\x96\x01" + b"\x11" + 8 * b"\xff" + b"\x1d" + 4 * b"\xff" + b"\x22\x03abc"
  fields = lambda size: list(records._fields(io.BytesIO(message), 0, size))
  assert fields(len(message)) == [(1, 1, 3), (2, 4, 12), (3, 13, 17), (4, 19, 22)]
  for cut, why in ((2, "ends after its message"), (10, "ends after its message"), (21, "ends after its message")):
    with pytest.raises(ValueError, match=why):
      fields(cut)
  with pytest.raises(ValueError, match="wire type 3"):
    list(records._fields(io.BytesIO(b"\x0b"), 0, 1))
