"""Random access to the images of a prepared TensorFlow Datasets split, whatever order its files are in.

A TFRecord file has no index: records lie one after the other, each preceded by its length, and each is a `tf.train.
Example` in protobuf's encoding. One pass over the files, which skips the image data, finds where each image lies, its
size and its label; the result is cached on disk, so later runs begin at once and read nothing but the images.
ArrayRecord files are random-access already, and their records are read whole.
"""

from __future__ import annotations

import io
import os
from typing import TYPE_CHECKING

import numpy as np

from spectral_jax._errors import ConfigError
from spectral_jax.data.cache import fingerprint, index
from spectral_jax.data.decode import Undecodable, measure, reading

if TYPE_CHECKING:
  from typing import Any

# A record is its length (8 bytes), a checksum of that (4), the data and a checksum of them (4).
HEADER, FOOTER = 12, 4
# Of ArrayRecord files so many records are looked at in one go.
PORTION = 256
COLUMNS = ("label", "height", "width", "shard", "offset", "length")


def index_records(builder: Any, part: str, image: str, label: str, *, skip: bool, name: str) -> Any:
  """Where the images of a split are, and how to read them.

  Args:
    builder: a prepared TFDS builder.
    part: the split's name.
    image, label: keys of the encoded image and of the class label.
    skip: decode every image once and mark those that fail with height 0, where otherwise the first bad header raises.
    name: the data set's name, for messages.

  Returns:
    `(found, read)`: `found` has `labels` `(n,)` and `sizes` `(n, 2)`; `read(indices)` returns the encoded images.

  Raises:
    ConfigError: on a file that is missing, cut short, damaged or of another format.
  """
  instructions = builder.info.splits[part].file_instructions
  files = [os.fspath(instruction.filename) for instruction in instructions]
  try:
    stats = [os.stat(file) for file in files]
  except FileNotFoundError as error:
    raise ConfigError(f"{error.filename} is missing, a file of {name}'s {part}; prepare the data set again") from error
  key = fingerprint("records", 2, skip, image, label, *files, *(s.st_size for s in stats),
                    *(s.st_mtime_ns for s in stats))
  kind = builder.info.file_format.value
  where = f"{name}'s {part}"
  if kind == "tfrecord":
    counts = [instruction.take for instruction in instructions]
    scan = lambda p: _scan_tfrecord(instructions[p], p)
  elif kind == "array_record":
    source = _array_records(instructions)
    counts = [min(PORTION, len(source) - start) for start in range(0, len(source), PORTION)]
    scan = lambda p: _scan_array_records(source, p * PORTION, counts[p])
  else:
    raise ConfigError(f"{name} is stored as {kind}, which this package does not read; prepare it again with "
                      "file_format='array_record' (or 'tfrecord')")
  firsts = np.r_[0, np.cumsum(counts)]

  def part_of_table(p):
    with reading(where):
      return [_row(entry, image, label, skip, f"record {firsts[p] + i} of {where}") for i, entry in enumerate(scan(p))]

  table = index(f"records-{key}", counts, len(COLUMNS), part_of_table, f"indexing {where}")
  found = dict(zip(COLUMNS, table.T))
  if kind == "tfrecord":
    read = lambda indices: [_pread(files, found, i) for i in indices]
  else:
    read = lambda indices: [_image(record, image) for record in source.__getitems__([int(i) for i in indices])]
  return {"labels": found["label"], "sizes": table[:, 1:3].astype(np.int32)}, read


def _row(entry, image, label, skip, what):
  """A record's row of the table; `entry` is an open file, the record's limits in it, and its shard."""
  file, start, end, shard = entry
  try:
    places = _features(file, start, end)
    (offset, length), (at, size) = places[image], places[label]
  except (KeyError, ValueError) as error:
    raise ConfigError(f"{what} is damaged, or has no {image!r} and {label!r}; prepare the data set again") from error
  file.seek(at)
  # Labels are 64-bit numbers in two's complement; the unlabeled ones are -1.
  number = _varint(io.BytesIO(file.read(size)))
  number -= (number >> 63) << 64

  def head(n):
    with reading(what):
      file.seek(offset)
      return file.read(length if n is None else min(n, length))

  size = measure(head, whole=skip)
  if isinstance(size, Exception):
    if not skip:
      raise Undecodable(what, size) from size
    size = (0, 0, 0)
  return number, *size[:2], shard, offset, length


def _scan_tfrecord(instruction, shard):
  name = os.fspath(instruction.filename)
  total = os.stat(name).st_size
  with open(name, "rb") as file:
    start = 0
    for i in range(instruction.skip + instruction.take):
      file.seek(start)
      header = file.read(HEADER)
      begin = start + HEADER
      end = begin + int.from_bytes(header[:8], "little")
      if len(header) < HEADER or end == begin or end + FOOTER > total:
        raise ConfigError(f"{name} ends inside record {i}: it is cut short or damaged; prepare the data set again")
      if i >= instruction.skip:
        yield file, begin, end, shard
      start = end + FOOTER


def _scan_array_records(source, start, count):
  for record in source.__getitems__(range(start, start + count)):
    yield io.BytesIO(record), 0, len(record), 0


def _pread(files, found, i):
  with open(files[found["shard"][i]], "rb", buffering=0) as file:
    return os.pread(file.fileno(), int(found["length"][i]), int(found["offset"][i]))


def _image(record, image):
  offset, length = _features(io.BytesIO(record), 0, len(record))[image]
  return record[offset:offset + length]


def _array_records(instructions):
  try:
    from array_record.python.array_record_data_source import ArrayRecordDataSource
  except ImportError as error:
    raise ImportError("this data set is stored as ArrayRecord; install its reader: pip install array_record") from error
  return ArrayRecordDataSource(instructions)


def _features(file, start, end):
  """Where the first value of each feature of a `tf.train.Example` lies: key -> (offset, length).

  An Example holds Features (field 1), these a map (field 1) from a key (1) to a Feature (2), that one a list of bytes
  (1) or of packed integers (3), and a list its values (1). Field numbers: tensorflow/core/example/*.proto.
  """
  places = {}
  for _, *features in _fields(file, start, end):
    for _, *entry in _fields(file, *features):
      parts = {number: limits for number, *limits in _fields(file, *entry)}
      file.seek(parts[1][0])
      key = file.read(parts[1][1] - parts[1][0]).decode()
      for _, *values in _fields(file, *parts.get(2, (0, 0))):
        first = next(_fields(file, *values), None)
        if first is not None:
          places[key] = (first[1], first[2] - first[1])
  return places


def _fields(file, start, end):
  """The fields of a protobuf message: number, and where the value starts and ends. Values are not read."""
  while start < end:
    file.seek(start)
    tag = _varint(file)
    kind = tag & 7
    begin = file.tell()
    if kind == 0:
      _varint(file)
      stop = file.tell()
    elif kind == 2:
      size = _varint(file)
      begin = file.tell()
      stop = begin + size
    elif kind in (1, 5):
      stop = begin + (8 if kind == 1 else 4)
    else:
      raise ValueError(f"not a protobuf message: wire type {kind}")
    if stop > end:
      raise ValueError("not a protobuf message: a field ends after its message")
    yield tag >> 3, begin, stop
    start = stop


def _varint(file):
  """Protobuf's variable-length integer: seven bits a byte, the low ones first."""
  value = 0
  for shift in range(0, 70, 7):
    byte = file.read(1)
    if not byte:
      raise ValueError("not a protobuf message: it ends inside a number")
    value |= (byte[0] & 127) << shift
    if byte[0] < 128:
      return value
  raise ValueError("not a protobuf message: a number of more than ten bytes")
