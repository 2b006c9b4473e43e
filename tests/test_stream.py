"""Streaming: by index, in order, repeatable, the right pixels."""

import dataclasses
import pathlib
import threading
import time

import jax.numpy as jnp
import ml_collections
import numpy as np
import pytest
from PIL import Image

from spectral_jax._errors import RunError
from spectral_jax.augment.crop import DRAWS, box, cut
from spectral_jax.data import open_dataset
from spectral_jax.data.decode import Undecodable
from spectral_jax.data.stream import _mix, uniform_draws

SIZES = [(40, 30), (33, 47), (24, 24), (64, 20)]


@pytest.fixture(scope="module")
def data(tmp_path_factory):
  """Two classes of four photographs-like JPEG and PNG images each, of different sizes."""
  root = tmp_path_factory.mktemp("images")
  for part in ("train", "test"):
    for label, name in enumerate(["cat", "dog"]):
      (root / part / name).mkdir(parents=True)
      for i, (height, width) in enumerate(SIZES):
        y, x = np.mgrid[:height, :width]
        image = np.stack([127 + 120 * np.sin((x + i) / 9 + label), 4 * y % 256, (x + y + 40 * i) % 256], axis=-1)
        suffix = "png" if i == 3 else "jpg"
        # Color at full resolution: at half, the decoder guesses it at a crop's border, a few gray levels off.
        options = {"subsampling": 0} if suffix == "jpg" else {}
        Image.fromarray(image.astype(np.uint8)).save(root / part / name / f"{i}.{suffix}", **options)
  with pytest.MonkeyPatch.context() as patch:
    patch.setenv("SPECTRAL_JAX_CACHE", str(tmp_path_factory.mktemp("cache")))
    yield open_dataset(ml_collections.ConfigDict(dict(
        name="folder", data_dir=str(root), image_size=16, path="stream", test_fraction=0.2, classes="",
        on_undecodable="error"))).train


TABLE = np.array([[3, 0, 7], [1, 6, 2]], np.int32)


def test_batches_follow_the_table(data):
  batches = list(data.stream(TABLE, image_size=12, seed=1))
  assert len(batches) == 2
  for row, batch in zip(TABLE, batches):
    np.testing.assert_array_equal(batch["index"], row)
    np.testing.assert_array_equal(batch["labels"], (row >= 4).astype(np.int32))
    assert batch["images"].shape == (2, 3, 12, 12, 3) and batch["images"].dtype == np.uint8
  assert not np.array_equal(batches[0]["images"][0], batches[0]["images"][1])


def test_a_crop_depends_on_seed_step_index_and_view_alone(data):
  whole = [batch["images"] for batch in data.stream(TABLE, seed=1)]
  resumed = next(iter(data.stream(TABLE[1:], seed=1, start_step=1)))["images"]
  np.testing.assert_array_equal(whole[1], resumed)
  alone = next(iter(data.stream(TABLE[1:, 1:2], seed=1, start_step=1)))["images"]
  np.testing.assert_array_equal(whole[1][:, 1:2], alone)
  for other in (dict(seed=2, start_step=1), dict(seed=1, start_step=2)):
    assert not np.array_equal(resumed, next(iter(data.stream(TABLE[1:], **other)))["images"])


def slow_weights(n, size):
  """How much each of n pixels counts in each of `size` equal parts: a triangle as wide as a part, or as a pixel."""
  step = n / size
  weights = np.zeros((size, n))
  for i in range(size):
    for j in range(n):
      weights[i, j] = max(0.0, 1 - abs((i + 0.5) * step - 0.5 - j) / max(step, 1))
    weights[i] /= weights[i].sum()
  return weights


@pytest.mark.parametrize("size", [6, 12, 40])
def test_crops_show_their_boxes(data, size):
  """Against a loop, and against the crop on the device: the two paths show the same pixels."""
  batch = next(iter(data.stream(TABLE[:1], image_size=size, seed=5, crop_scale=(0.3, 0.6))))
  for i, index in enumerate(TABLE[0]):
    with Image.open(data.encoded.describe(index)) as file:
      image = np.asarray(file.convert("RGB"), float)
    for view in range(2):
      uniforms = uniform_draws(5, 0, TABLE[0], 2)[i, view]
      where = box(uniforms, *image.shape[:2], (0.3, 0.6), xp=np)
      top, left, height, width = where.astype(int)
      part = image[top:top + height, left:left + width]
      expected = np.einsum("iy,jx,yxc->ijc", slow_weights(height, size), slow_weights(width, size), part)
      # Pillow weighs in fixed point and rounds after each axis.
      np.testing.assert_allclose(batch["images"][view, i].astype(float), expected, atol=1.2)
      np.testing.assert_allclose(batch["images"][view, i], cut(jnp.array(image), jnp.array(where), size), atol=1.2)


def test_whole_images_are_those_of_the_resident_path(data):
  batches = list(data.stream([[0, 1, 2], [3, 4, 5], [6, 7]], train=False, views=1))
  assert [len(batch["index"]) for batch in batches] == [3, 3, 2]
  streamed = np.concatenate([batch["images"][0] for batch in batches])
  np.testing.assert_array_equal(streamed, data.images())


def test_a_broken_image_is_named(data, tmp_path):
  for name in "ab":
    (tmp_path / name).mkdir()
    for i in range(3):
      Image.effect_noise((64, 64), 50).save(tmp_path / name / f"{i}.jpg")
  bad = tmp_path / "b" / "1.jpg"
  bad.write_bytes(bad.read_bytes()[:500])
  split = open_dataset(ml_collections.ConfigDict(dict(
      name="folder", data_dir=str(tmp_path), image_size=16, path="stream", test_fraction=0.3, classes="",
      on_undecodable="error")))
  parts = [part for part in (split.train, split.test)
           if str(bad) in [part.encoded.describe(i) for i in range(part.size)]]
  with pytest.raises(Undecodable, match=f"cannot decode {bad}.*on_undecodable=skip"):
    list(parts[0].stream(np.arange(parts[0].size)[:, None]))


def test_wrong_indices_are_refused(data):
  with pytest.raises(ValueError, match="indices from 0 to 7, got 0 to 8"):
    data.stream([[0, 8]])
  with pytest.raises(ValueError, match="rows of one length"):
    data.stream([[0], [1, 2]])
  digits = open_dataset(ml_collections.ConfigDict(dict(
      name="digits", data_dir="", image_size=8, path="auto", test_fraction=0.2, classes="", on_undecodable="error")))
  with pytest.raises(ValueError, match="config.data.path='stream'"):
    digits.train.stream([[0]])


def test_draws_are_uniform_and_independent():
  draws = uniform_draws(0, 3, np.arange(4000), 2)
  assert draws.shape == (4000, 2, DRAWS) and draws.min() >= 0 and draws.max() < 1
  counts = np.histogram(draws, 16, (0, 1))[0] / draws.size
  np.testing.assert_allclose(counts, 1 / 16, rtol=0.03)
  correlation = np.corrcoef(draws.reshape(4000, -1).T)
  assert np.abs(correlation - np.eye(2 * DRAWS)).max() < 0.08
  # Neighboring seeds and steps share nothing.
  for other in (uniform_draws(1, 3, np.arange(4000), 2), uniform_draws(0, 4, np.arange(4000), 2)):
    assert abs(np.corrcoef(draws.ravel(), other.ravel())[0, 1]) < 0.02


def test_hosts_share_a_batch_with_the_same_crops(data):
  table = np.array([[3, 0, 7, 5], [1, 6, 2, 4]], np.int32)
  whole = list(data.stream(table, seed=1, image_size=9))
  for hosts in (1, 2, 4):
    width = 4 // hosts
    parts = [list(data.stream(table, columns=slice(i * width, (i + 1) * width), seed=1, image_size=9))
             for i in range(hosts)]
    for t, batch in enumerate(whole):
      for name, axis in (("images", 1), ("labels", 0), ("index", 0)):
        np.testing.assert_array_equal(np.concatenate([part[t][name] for part in parts], axis=axis), batch[name])
  read = []
  spied = dataclasses.replace(data, encoded=dataclasses.replace(
      data.encoded, read=lambda indices: read.extend(map(int, indices)) or data.encoded.read(indices)))
  list(spied.stream(table, columns=slice(2, 4)))
  assert sorted(read) == [2, 4, 5, 7]


def test_stopping_early_leaves_no_thread_at_work(data):
  batches = data.stream(np.zeros((1000, 8), np.int32), image_size=12)
  next(batches)
  batches.close()
  deadline = time.monotonic() + 5
  while any(thread.name.startswith("stream") for thread in threading.enumerate()) and time.monotonic() < deadline:
    time.sleep(0.01)
  assert not any(thread.name.startswith("stream") for thread in threading.enumerate())


@pytest.fixture
def two_classes(tmp_path):
  for name in "ab":
    (tmp_path / name).mkdir()
    for i in range(4):
      Image.effect_noise((64, 64), 50).save(tmp_path / name / f"{i}.jpg")
  return open_dataset(ml_collections.ConfigDict(dict(
      name="folder", data_dir=str(tmp_path), image_size=16, path="stream", test_fraction=0.3, classes="",
      on_undecodable="error"))).train


@pytest.mark.parametrize("harm, error, message", [
    (lambda path: path.unlink(), RunError, "is gone: it was there when the data set was opened. Put it back"),
    (lambda path: Image.effect_noise((32, 64), 50).save(path), RunError, "changed: it was 64 x 64 .* is 32 x 64 now"),
    (lambda path: path.write_bytes(path.read_bytes()[:300]), Undecodable, "cannot decode .*on_undecodable=skip"),
    (lambda path: (path.unlink(), path.mkdir()), RunError, "cannot read .*Is a directory.*Check the disk"),
])
def test_a_file_that_is_lost_or_harmed_while_it_streams_is_named(two_classes, harm, error, message):
  last = pathlib.Path(two_classes.encoded.describe(two_classes.size - 1))
  batches = two_classes.stream(np.arange(two_classes.size)[:, None], prefetch=0)
  next(batches)
  harm(last)
  with pytest.raises(error, match=message) as raised:
    list(batches)
  assert str(last) in str(raised.value)


def test_draws_are_those_of_splitmix64():
  # The first numbers of the generator's public test vector, of seed 0: what a release may not change unseen.
  golden = np.uint64(0x9E3779B97F4A7C15)
  assert [int(_mix(state, np.uint64(0))) for state in (np.uint64(0), golden)] == [
      0xE220A8397B1DCDAF, 0x6E789E6AA1B965F4]
