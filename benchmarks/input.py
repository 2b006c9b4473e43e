"""Measures how fast images reach a step at 224 pixels; writes the tables into docs/data.md and docs/input.json.

  python benchmarks/input.py --images=DIR_OR_TAR [--copies=5] [--rounds=7] [--epochs=50] [--no-write]

DIR_OR_TAR holds class folders of JPEG files, somewhere in it. They are written out `copies` times as a folder, as
TFRecord and as ArrayRecord, and streamed from each with two crops an image, beside plain decoding of the same bytes by
Pillow and by tf.data. "Per core" is images per second of processor time, which other work on the machine hardly
disturbs; all are measured in turns, in an order that is drawn anew in every round. Then where the time of one image
goes, decoders alone, each in one thread, with how far their pixels are from Pillow's, and the process's memory over
`epochs` passes through the folder. Needs the `tf` extra; the `fast` extra is measured where it is installed, and Pillow
alone beside it.
"""

import argparse
import functools
import io
import os
import pathlib
import random
import shutil
import statistics
import sys
import tarfile
import tempfile
import time
import unittest.mock

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
ROOT = pathlib.Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

import ml_collections
import numpy as np
import tensorflow as tf
import tensorflow_datasets as tfds
from PIL import Image

from benchmarks import report
from spectral_jax.augment.crop import box
from spectral_jax.data import decode, fast, open_dataset
from spectral_jax.data.stream import uniform_draws
from spectral_jax.workdir.folder import write_json

SIZE, BATCH, SCALE = 224, 50, (0.08, 1.0)


def main():
  parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
  parser.add_argument("--images", required=True, type=pathlib.Path)
  parser.add_argument("--copies", type=int, default=5)
  parser.add_argument("--rounds", type=int, default=7)
  parser.add_argument("--epochs", type=int, default=50)
  parser.add_argument("--no-write", action="store_true")
  flags = parser.parse_args()
  with tempfile.TemporaryDirectory() as place:
    place = pathlib.Path(place)
    os.environ["SPECTRAL_JAX_CACHE"] = str(place / "cache")
    files = originals(flags.images, place / "originals")
    splits = {kind: write(files, flags.copies, place / kind) for kind in WRITERS}
    blobs = [file.read_bytes() for file in files] * flags.copies
    rows = measure(forms(splits, blobs), len(blobs), flags.rounds)
    once = blobs[:len(files)]
    # A stage is short, and two of them differ little: more turns.
    parts, alone = stages(once, 3 * flags.rounds), decoders(once, flags.rounds)
    resident = memory(splits["folder"], flags.epochs)
  pixels = np.mean([np.prod(Image.open(file).size) for file in map(io.BytesIO, blobs)])
  text = (f"{len(files)} JPEGs of {pixels / 1e3:.0f} thousand pixels on average, {flags.copies} times; crops of {SIZE} "
          f"pixels, batches of {BATCH}.\n\n" + report.table(rows)
          + "\n\nWhere the time of an image goes, milliseconds of processor time, one thread.\n\n" + report.table(parts)
          + "\n\nDecoders alone, one thread.\n\n" + report.table(alone) + f"\n\nResident memory of the process over {flags.epochs} epochs from the folder, MiB: "
          + ", ".join(f"{mib:.0f} after {epoch}" for epoch, mib in resident.items()) + ".")
  print(text)
  if not flags.no_write:
    write_json(ROOT / "docs" / "input.json", {
        "about": f"python benchmarks/input.py --images=... --copies={flags.copies} --rounds={flags.rounds} "
                 f"--epochs={flags.epochs}; {report.machine()}", "images": len(files), "forms": rows, "stages_ms": parts,
        "decoders": alone, "resident_MiB_after_epoch": resident})
    report.write("input", "python benchmarks/input.py --images=...", text,
                 page=ROOT / "docs" / "data.md")


def originals(images, place):
  if images.is_file():
    with tarfile.open(images) as tar:
      tar.extractall(place, filter="data")
    images = place
  files = sorted(file for file in images.rglob("*") if file.suffix.lower() in (".jpg", ".jpeg"))
  if not files:
    sys.exit(f"--images={images}: there are no .jpg or .jpeg files in it")
  return files


def write_folder(files, copies, place):
  for file in files:
    folder = place / "train" / file.parent.name
    folder.mkdir(parents=True, exist_ok=True)
    for copy in range(copies):
      shutil.copy(file, folder / f"{copy}-{file.name}")
  shutil.copytree(place / "train", place / "test")
  return dict(name="folder", data_dir=str(place))


def write_prepared(files, copies, place, file_format="tfrecord", name="images", more_classes=()):
  """A prepared data set, its images in the order in which a folder's are listed."""
  names = sorted({*more_classes, *(file.parent.name for file in files)})
  features = tfds.features.FeaturesDict({
      "image": tfds.features.Image(shape=(None, None, 3), encoding_format="jpeg"),
      "label": tfds.features.ClassLabel(names=names)})
  folder = place / name / "1.0.0"
  folder.mkdir(parents=True)
  records = [features.serialize_example(features.encode_example({"image": str(file), "label": file.parent.name}))
             for file in files for _ in range(copies)]
  infos = []
  for part in ("train", "test"):
    path = str(folder / f"{name}-{part}.{file_format}-00000-of-00001")
    if file_format == "tfrecord":
      writer = tf.io.TFRecordWriter(path)
    else:
      from array_record.python.array_record_module import ArrayRecordWriter
      writer = ArrayRecordWriter(path, "group_size:1")
    for record in records:
      writer.write(record)
    writer.close()
    infos.append(tfds.core.SplitInfo(name=part, shard_lengths=[len(records)], num_bytes=0))
  tfds.folder_dataset.write_metadata(
      data_dir=str(folder), features=features, split_infos=infos,
      filename_template="{DATASET}-{SPLIT}.{FILEFORMAT}-{SHARD_X_OF_Y}", check_data=False)
  return dict(name=name, data_dir=str(place))


WRITERS = {"folder": write_folder, "tfrecord": write_prepared,
           "array_record": lambda *args: write_prepared(*args, file_format="array_record")}


def write(files, copies, place):
  return open_dataset(ml_collections.ConfigDict(dict(
      image_size=SIZE, path="stream", test_fraction=0.2, classes="", on_undecodable="error",
      **WRITERS[place.name](files, copies, place)))).train


def pillow_alone(function, *args):
  """Calls a function as if the `fast` extra were not installed."""
  with unittest.mock.patch.object(fast, "libraries", return_value=None):
    return function(*args)


def boxes_of(blobs):
  """Two boxes an image, `(n, 2, 4)`."""
  sizes = np.array([Image.open(io.BytesIO(blob)).size[::-1] for blob in blobs])
  return box(uniform_draws(0, 0, np.arange(len(blobs)), 2), *sizes.T[..., None], SCALE, xp=np).astype(np.int32)


def forms(splits, blobs):
  """What is compared: name -> a function that takes all images once."""
  order = np.random.default_rng(0).permutation(len(blobs))[:len(blobs) // BATCH * BATCH].reshape(-1, BATCH)

  def streamed(split):
    for _ in split.stream(order, crop_scale=SCALE):
      pass

  def with_pillow():
    for blob in blobs:
      np.asarray(Image.open(io.BytesIO(blob)).convert("RGB"))

  def with_tensorflow(examples, function):
    for _ in examples.map(function, num_parallel_calls=tf.data.AUTOTUNE).prefetch(2):
      pass

  def two_crops(blob, places):
    image = tf.io.decode_jpeg(blob, channels=3, dct_method="INTEGER_ACCURATE")
    cut = [tf.image.crop_to_bounding_box(image, *tf.unstack(place)) for place in tf.unstack(places)]
    cut = [tf.image.resize(part, (SIZE, SIZE), antialias=True) for part in cut]
    return tf.cast(tf.round(tf.stack(cut)), tf.uint8)

  plain = tf.data.Dataset.from_tensor_slices(blobs)
  with_boxes = tf.data.Dataset.from_tensor_slices((blobs, boxes_of(blobs)))
  found = {
      "plain decoding, Pillow": with_pillow,
      "plain decoding, tf.data": lambda: with_tensorflow(plain, lambda blob: tf.io.decode_jpeg(blob, channels=3)),
      "two crops, tf.data": lambda: with_tensorflow(with_boxes, two_crops),
      "two crops, folder": lambda: streamed(splits["folder"]),
      "two crops, TFRecord": lambda: streamed(splits["tfrecord"]),
      "two crops, ArrayRecord": lambda: streamed(splits["array_record"])}
  if fast.libraries():
    found |= {f"{name}, Pillow alone": functools.partial(pillow_alone, found[name])
              for name in found if name.startswith("two crops") and not name.endswith("tf.data")}
  return found


def measure(functions, count, rounds):
  """Rows of the table; each function is called once to warm up."""
  seconds = {name: [] for name in functions}
  for turn in range(rounds + 1):
    for name in random.sample(list(functions), len(functions)):
      busy, wall = time.process_time(), time.perf_counter()
      functions[name]()
      if turn:
        seconds[name].append((time.process_time() - busy, time.perf_counter() - wall))
  busy, wall = ({name: count / statistics.median(times[which] for times in taken) for name, taken in seconds.items()}
                for which in (0, 1))
  fastest = max(busy[name] for name in functions if name.startswith("plain"))
  return [{"form": name, "images/s per core": round(busy[name]), "images/s": round(wall[name]),
           "share of the faster plain decoding": busy[name] / fastest} for name in functions]


def in_turns(functions, rounds):
  """Median seconds of processor time of each function, called once to warm up."""
  seconds = {name: [] for name in functions}
  for turn in range(rounds + 1):
    for name in random.sample(list(functions), len(functions)):
      began = time.process_time()
      functions[name]()
      if turn:
        seconds[name].append(time.process_time() - began)
  return {name: statistics.median(taken) for name, taken in seconds.items()}


def stages(blobs, rounds):
  """Rows of the second table, with the extra where it is installed and with Pillow alone."""
  boxes = boxes_of(blobs).tolist()

  def decoding():
    for blob in blobs:
      decode.decode(blob, 3)

  def two_crops(images):
    for image, places in zip(images, boxes):
      for place in places:
        decode.crop(image, place, SIZE)

  decoded = lambda: [decode.decode(blob, 3) for blob in blobs]
  forms = {"Pillow alone": pillow_alone}
  if fast.libraries():
    forms["fast extra"] = lambda function, *args: function(*args)
  functions = {}
  for form, call in forms.items():
    functions[form, "decoding"] = functools.partial(call, decoding)
    functions[form, "two crops"] = functools.partial(call, two_crops, call(decoded))
  taken = {name: seconds / len(blobs) * 1e3 for name, seconds in in_turns(functions, rounds).items()}
  return [{"form": form} | {stage: taken[form, stage] for stage in ("decoding", "two crops")}
          | {"together": taken[form, "decoding"] + taken[form, "two crops"]} for form in forms]


def decoders(blobs, rounds):
  """Rows of the third table. "image" is Pillow's, which the crops are cut from; "array" is NumPy's."""
  def of_pillow(blob):
    image = Image.open(io.BytesIO(blob), formats=("JPEG",))
    image.load()
    return image if image.mode == "RGB" else image.convert("RGB")

  def drafted(blob):
    image = Image.open(io.BytesIO(blob), formats=("JPEG",))
    image.draft("RGB", (SIZE, SIZE))
    return image.convert("RGB")

  of_tensorflow = lambda method: lambda blob: tf.io.decode_jpeg(blob, channels=3, dct_method=method).numpy()
  found = {"TensorFlow, array": of_tensorflow(""), "TensorFlow, accurate, array": of_tensorflow("INTEGER_ACCURATE"),
           "Pillow, image": of_pillow, "Pillow, array": lambda blob: np.asarray(of_pillow(blob)),
           "Pillow, drafted, image": drafted}
  if fast.libraries():
    simplejpeg, _ = fast.libraries()
    found |= {"simplejpeg, array": simplejpeg.decode_jpeg,
              "simplejpeg, image": lambda blob: Image.fromarray(simplejpeg.decode_jpeg(blob))}
  def decode_with(decoder):
    for blob in blobs:
      decoder(blob)

  seconds = in_turns({name: functools.partial(decode_with, decoder) for name, decoder in found.items()}, rounds)
  rows = []
  for name, decoder in found.items():
    pairs = [(np.asarray(decoder(blob)).astype(int), np.asarray(of_pillow(blob)).astype(int)) for blob in blobs]
    rows.append({
        "decoder": name, "images/s per core": round(len(blobs) / seconds[name]),
        "share of TensorFlow's": seconds["TensorFlow, array"] / seconds[name],
        "largest difference from Pillow": max(int(np.abs(a - b).max()) for a, b in pairs if a.shape == b.shape),
        "images of another size": sum(a.shape != b.shape for a, b in pairs)})
  return rows


def memory(split, epochs):
  """MiB of the process after some of so many epochs."""
  page, found = os.sysconf("SC_PAGE_SIZE"), {}
  for epoch in range(1, epochs + 1):
    order = np.random.default_rng(epoch).permutation(split.size)[:split.size // BATCH * BATCH].reshape(-1, BATCH)
    for _ in split.stream(order, start_step=epoch * len(order), crop_scale=SCALE):
      pass
    if epoch in (1, 5, 10, 20, 30, 40, epochs):
      found[epoch] = int(pathlib.Path("/proc/self/statm").read_text().split()[1]) * page / 2**20
  return found


if __name__ == "__main__":
  main()
