"""Random access to the records of a prepared TensorFlow Datasets split, whatever order its files are in.

A TFRecord file has no index: records lie one after the other, each preceded by its length. One pass over the files
finds where each record starts, its label and its image's size; the result is cached on disk, so later runs begin at
once. ArrayRecord files are random-access already and only the labels and sizes are collected.
"""

import functools
import os

import numpy as np

from spectral_jax.data.cache import cached, fingerprint
from spectral_jax.data.decode import Undecodable, inspect

# A record is its length (8 bytes), a checksum of that (4), the data and a checksum of them (4).
HEADER, FOOTER = 12, 4


def index_records(builder, part, image, label, *, skip, name):
  """Where the records of a split are, and how to read them.

  Args:
    builder: a prepared TFDS builder.
    part: the split's name.
    image, label: keys of the encoded image and of the class label.
    skip: decode every image once and mark those that fail with size 0, where otherwise the first bad header raises.
    name: the data set's name, for messages.

  Returns:
    `(found, read)`: `found` has `labels` `(n,)` and `sizes` `(n, 2)`; `read(indices)` returns the encoded images.
  """
  instructions = builder.info.splits[part].file_instructions
  files = [instruction.filename for instruction in instructions]
  stats = [os.stat(file) for file in files]
  key = fingerprint("records", skip, image, label, *files, *(s.st_size for s in stats), *(s.st_mtime_ns for s in stats))
  kind = builder.info.file_format.value
  if kind == "tfrecord":
    scan = functools.partial(_scan_tfrecords, instructions)
  elif kind == "array_record":
    source = _array_records(instructions)
    scan = functools.partial(_scan_array_records, source)
  else:
    raise ValueError(f"{name} is stored as {kind}, which cannot be streamed; use config.data.path='resident', or "
                     "prepare it again as array_record")
  found = cached(f"records-{key}", lambda: _collect(scan(), image, label, skip, f"{name}'s {part}"))
  if kind == "tfrecord":
    return found, lambda indices: [_image(_pread(files, found, i), image) for i in indices]
  return found, lambda indices: [_image(record, image) for record in source.__getitems__(indices.tolist())]


def _collect(records, image, label, skip, where):
  shards, offsets, lengths, labels, sizes = [], [], [], [], []
  for shard, offset, record in records:
    example = _parse(record)
    size = inspect(example[image].bytes_list.value[0], whole=skip)
    if isinstance(size, Exception):
      if not skip:
        raise Undecodable(f"record {len(labels)} of {where}", size) from size
      size = (0, 0)
    shards.append(shard)
    offsets.append(offset)
    lengths.append(len(record))
    labels.append(example[label].int64_list.value[0])
    sizes.append(size[:2])
  return {"shards": np.array(shards, np.int32), "offsets": np.array(offsets, np.int64),
          "lengths": np.array(lengths, np.int64), "labels": np.array(labels, np.int32),
          "sizes": np.array(sizes, np.int32).reshape(-1, 2)}


def _scan_tfrecords(instructions):
  for shard, instruction in enumerate(instructions):
    with open(instruction.filename, "rb", buffering=2**20) as file:
      for i in range(instruction.skip + instruction.take):
        length = int.from_bytes(file.read(HEADER)[:8], "little")
        offset = file.tell()
        record = file.read(length)
        file.seek(FOOTER, os.SEEK_CUR)
        if len(record) != length or length == 0:
          raise ValueError(f"{instruction.filename} ends inside record {i}: it is cut short or damaged; "
                           "prepare the data set again")
        if i >= instruction.skip:
          yield shard, offset, record


def _pread(files, found, i):
  with open(files[found["shards"][i]], "rb", buffering=0) as file:
    return os.pread(file.fileno(), found["lengths"][i], found["offsets"][i])


def _array_records(instructions):
  try:
    from array_record.python.array_record_data_source import ArrayRecordDataSource
  except ImportError as error:
    raise ImportError("this data set is stored as ArrayRecord; install its reader: pip install array_record") from error
  return ArrayRecordDataSource(instructions)


def _scan_array_records(source, chunk=256):
  for start in range(0, len(source), chunk):
    for record in source.__getitems__(range(start, min(start + chunk, len(source)))):
      yield 0, 0, record


def _parse(record):
  import tensorflow as tf
  return tf.train.Example.FromString(record).features.feature


def _image(record, image):
  return _parse(record)[image].bytes_list.value[0]
