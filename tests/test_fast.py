"""The `fast` extra shows what Pillow shows: JPEGs bit for bit, resized crops to one level, damaged files by name."""

import importlib
import io

import ml_collections
import numpy as np
import pytest
from PIL import Image

from spectral_jax.data import decode, fast, open_dataset
from spectral_jax.data.decode import Undecodable, broken

pytestmark = pytest.mark.skipif(fast.libraries() is None, reason="needs the fast extra")
Y, X = np.mgrid[:37, :50]
COLOR = Image.fromarray(np.stack([127 + 120 * np.sin(X / 5), 6 * Y % 256, (X * Y) % 256], -1).astype(np.uint8))
GRAY = COLOR.convert("L")


def jpeg(image, **options):
  stream = io.BytesIO()
  image.save(stream, "jpeg", **options)
  return stream.getvalue()


def turned(turn):
  exif = Image.Exif()
  exif[0x0112] = turn
  return jpeg(COLOR, exif=exif.tobytes())


@pytest.fixture
def pillow_alone(monkeypatch):
  """Calls a function as if the extra were not installed."""
  def call(function, *args):
    with monkeypatch.context() as patch:
      patch.setattr(fast, "libraries", lambda: None)
      return function(*args)
  return call


# Name -> the file's bytes, the channels asked for, whether simplejpeg decodes it.
FILES = {
    "color": (jpeg(COLOR), 3, True), "color at full resolution": (jpeg(COLOR, subsampling=0), 3, True),
    "color at half width": (jpeg(COLOR, subsampling=1), 3, True), "progressive": (jpeg(COLOR, progressive=True), 3, True),
    "no conversion": (jpeg(COLOR, keep_rgb=True), 3, True), "gray": (jpeg(GRAY), 1, True),
    "gray among colors": (jpeg(GRAY), 3, True), "color among gray": (jpeg(COLOR), 1, False),
    "cmyk": (jpeg(COLOR.convert("CMYK")), 3, False), "upright": (turned(1), 3, True),
    "bytes after the end": (jpeg(COLOR) + b"more", 3, True)} | {
    f"turned {turn}": (turned(turn), 3, False) for turn in range(2, 9)}


@pytest.mark.parametrize("name", FILES)
def test_a_jpeg_is_decoded_to_pillows_pixels(name, pillow_alone):
  blob, channels, by_simplejpeg = FILES[name]
  found, expected = decode.decode(blob, channels), pillow_alone(decode.decode, blob, channels)
  assert isinstance(found, np.ndarray) == by_simplejpeg
  assert decode.extent(found) == decode.extent(expected)
  np.testing.assert_array_equal(np.asarray(found).reshape(np.asarray(expected).shape), np.asarray(expected))


@pytest.mark.parametrize("options", [{}, {"progressive": True}])
def test_damage_is_judged_as_pillow_judges_it(options, pillow_alone):
  def attempt(blob):
    try:
      return np.asarray(decode.decode(blob, 3))
    except broken() as error:
      return type(error), str(error).split(" at 0x")[0]

  whole = jpeg(COLOR, **options)
  random = np.random.default_rng(0)
  harmed = [whole[:n] for n in range(0, len(whole), 7)]
  for _ in range(300):
    blob = bytearray(whole)
    blob[random.integers(len(blob))] = random.integers(256)
    harmed.append(bytes(blob))
  shown = 0
  for blob in harmed:
    found, expected = attempt(blob), pillow_alone(attempt, blob)
    assert type(found) is type(expected)
    if isinstance(found, np.ndarray):
      np.testing.assert_array_equal(found, expected)
      shown += 1
    else:
      assert found == expected
  assert 50 < shown < len(harmed) - 50


@pytest.mark.parametrize("channels", [1, 3])
def test_a_crop_is_at_most_one_level_off_and_the_same_without_vector_instructions(channels, pillow_alone, monkeypatch):
  random = np.random.default_rng(1)
  extremes = random.choice([0, 3, 128, 255], (300, 410, channels)).astype(np.uint8)
  image = Image.fromarray(extremes[..., 0] if channels == 1 else extremes)
  _, cykooz = fast.libraries()
  for box in ((0, 0, 300, 410), (3, 5, 1, 1), (0, 7, 1, 200), (9, 0, 200, 1), (250, 350, 50, 60), (20, 30, 224, 224),
              (1, 2, 96, 300), (100, 0, 60, 96)):
    for size in (1, 24, 96, 224):
      expected = pillow_alone(decode.crop, image, box, size).astype(int)
      found = decode.crop(extremes, box, size)
      assert found.shape == (size, size, channels) and found.dtype == np.uint8
      assert np.abs(found - expected).max() <= (0 if box[2:] == (size, size) else 1)
      np.testing.assert_array_equal(decode.crop(image, box, size), found)
      plain = cykooz.Resizer()
      plain.cpu_extensions = cykooz.CpuExtensions.none
      with monkeypatch.context() as patch:
        patch.setattr(cykooz, "Resizer", lambda: plain)
        np.testing.assert_array_equal(decode.crop(extremes, box, size), found)


@pytest.fixture
def split(tmp_path, monkeypatch):
  monkeypatch.setenv("SPECTRAL_JAX_CACHE", str(tmp_path / "cache"))
  for name in "ab":
    (tmp_path / "images" / name).mkdir(parents=True)
    for i in range(8):
      (tmp_path / "images" / name / f"{i}.jpg").write_bytes(jpeg(COLOR.rotate(20 * i), quality=90))
  return open_dataset(ml_collections.ConfigDict(dict(
      name="folder", data_dir=str(tmp_path / "images"), image_size=24, path="stream", test_fraction=0.25, classes="",
      on_undecodable="error"))).train


def test_a_stream_shows_the_same_crops(split, pillow_alone):
  def epoch(**options):
    return np.stack([batch["images"] for batch in split.stream(np.arange(12).reshape(2, 6), **options)])

  found, expected = epoch(seed=3), pillow_alone(lambda: epoch(seed=3))
  assert 0 < np.abs(found.astype(int) - expected).max() <= 1
  np.testing.assert_array_equal(found, epoch(seed=3))
  # Streamed and resident images are one, with the extra too.
  np.testing.assert_array_equal(np.concatenate(epoch(train=False, views=1)[:, 0]), split.images())


def test_a_truncated_file_is_named(split):
  path = split.encoded.describe(0)
  with open(path, "r+b") as file:
    file.truncate(len(file.read()) - 40)
  with pytest.raises(Undecodable, match=f"cannot decode {path}.*truncated.*on_undecodable=skip"):
    list(split.stream([[0]]))


@pytest.mark.parametrize("missing", ["simplejpeg", "cykooz_resizer"])
def test_pillow_does_all_where_one_library_is_missing(missing, monkeypatch):
  def find(name):
    if name == missing:
      raise ImportError(name)

  monkeypatch.setattr(importlib, "import_module", find)
  fast.libraries.cache_clear()
  try:
    assert isinstance(decode.decode(jpeg(COLOR), 3), Image.Image)
    assert decode.crop(COLOR, (0, 0, 20, 30), 8).shape == (8, 8, 3)
  finally:
    fast.libraries.cache_clear()
