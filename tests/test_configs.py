"""Every config makes a step on tiny data; wrong keys and values are answered before anything is done."""

import json
import pathlib
import subprocess
import sys

import jax
import numpy as np
import pytest
from PIL import Image

from spectral_jax import command, config as config_files
from spectral_jax._errors import ConfigError
from spectral_jax.config import keys, load_config
from spectral_jax.data import open_dataset
from spectral_jax.defaults import learner, learners
from spectral_jax.mesh import make_mesh
from spectral_jax.training.batches.tables import epoch_indices
from spectral_jax.training.checks import check_batch, check_config
from spectral_jax.training.run import prepare
from spectral_jax.workdir.folder import claim

ROOT = pathlib.Path(__file__).resolve().parent.parent
CONFIGS = config_files.shipped()


@pytest.fixture(scope="session")
def folder(tmp_path_factory):
  """Three classes of noisy color images, as JPEG files of a size that no config asks for."""
  root = tmp_path_factory.mktemp("images")
  random = np.random.default_rng(0)
  for part, count in (("train", 6), ("test", 2)):
    for label, name in enumerate(("blue", "green", "red")):
      (root / part / name).mkdir(parents=True)
      for i in range(count):
        pixels = random.integers(0, 128, (20, 24, 3), np.uint8)
        pixels[..., 2 - label] += 100
        Image.fromarray(pixels).save(root / part / name / f"{i}.jpg")
  return root


@pytest.mark.parametrize("name", CONFIGS)
def test_one_step_of_every_config(name, folder):
  config = load_config(name)
  check_config(config)
  config.batch_size, config.steps, config.microbatches, config.eval.knn_k = 8, 2, 1, 3
  config.optimizer.warmup_epochs, config.loss.temperature = 0, 0.2
  config.model.update(width=0.0625, projector_hidden=8, projector_dim=8)
  if config.data.name != "digits":
    config.data.update(name="folder", data_dir=str(folder), classes="", image_size=16)
    if config.model.encoder != "convnet":  # one for each stem; deeper ones have tests of their own, and compile long
      config.model.encoder = "resnet18" if name in ("cifar10", "imagenet100") else "convnet"
  of = "cl/" if config.learners else ""
  if config.learners:  # two stand for all, which have tests of their own
    config.model.encoder = "convnet"
    config.learners = learners(cl=config.learners.cl, ce=learner("cross_entropy"))
  run = prepare(config, open_dataset(config.data), make_mesh(devices=jax.devices()[:1]))
  state = run.init()
  before = jax.device_get(state.learners)
  rows = epoch_indices(config.seed, 0, run.dataset.train.size, config.batch_size)
  batch = next(iter(run.feed(rows, 0)))
  state, metrics = run.step(state, batch, observed=True)
  metrics = {key: float(value) for key, value in metrics.items()}
  assert int(state.step) == 1
  assert np.isfinite(list(metrics.values())).all()
  assert metrics[f"{of}band_lower"] <= metrics[f"{of}band_value"] <= metrics[f"{of}band_upper"]
  assert any((a != b).any() for a, b in zip(jax.tree.leaves(before), jax.tree.leaves(jax.device_get(state.learners))))


@pytest.mark.parametrize("name", CONFIGS)
def test_headers_say_command_hardware_and_accuracy(name):
  header = (ROOT / "configs" / f"{name}.py").read_text().split('"""')[1]
  assert "python -m spectral_jax.main" in header and "Hardware:" in header
  assert "not yet measured" in header or "%" in header or "0.9" in header


@pytest.mark.parametrize("key, nearest", [
    ("optimizer.learning_rat", "optimizer.learning_rate"), ("batch_sise", "batch_size"),
    ("learning_rate", "optimizer.learning_rate"), ("los.name", "loss.name")])
def test_a_wrong_key_names_the_nearest(key, nearest):
  path = config_files.find_config("digits")
  with pytest.raises(ValueError, match=f"config.{key}.*Did you mean '{nearest}'"):
    config_files.check_keys(["main", f"--config.{key}=1"], path)
  config_files.check_keys(["main", f"--config.{nearest}=1", "--noconfig.augment.flip"], path)


@pytest.mark.parametrize("word, message", [
    ("--config.workdir=x", "flag of its own: --workdir=DIR"), ("--epochs=2", "write --config.epochs=2"),
    ("--config.loss.kwargs.gamma=3", r"""given together, as a dictionary: --config.loss.kwargs="{'gamma': 3}"$"""),
    ("--config.augment.grey_prob=0.1", "called 'augment.gray_prob' now")])
def test_words_that_almost_fit_are_answered_with_the_right_ones(word, message):
  with pytest.raises(ConfigError, match=message):
    config_files.check_keys(["main", word], "digits")


def test_kernels_and_shots_that_cannot_be_are_named():
  config = load_config("digits")
  config.loss.update(name="kcl", temperature=None)
  config.loss.kwargs = {"kernel": "gaussian(1..2)"}
  with pytest.raises(ConfigError, match=r"gaussian\(1\.\.2\)"):
    check_config(config)
  config = load_config("digits")
  config.eval.shots = 1000
  with pytest.raises(ConfigError, match="config.eval.shots=1000 is more than any class has"):
    check_batch(config, open_dataset(config.data), make_mesh(devices=jax.devices()[:1]))


def test_a_wrong_key_in_a_config_file(tmp_path):
  file = tmp_path / "mine.py"
  file.write_text("from spectral_jax.defaults import get_defaults\n"
                  "def get_config():\n  c = get_defaults()\n  c.optimizer.learning_rat = 1.0\n  return c\n")
  with pytest.raises(ValueError, match='Did you mean "learning_rate"'):
    config_files.load_config(str(file))


def test_configs_are_found_from_any_folder(tmp_path, monkeypatch):
  monkeypatch.chdir(tmp_path)
  for name in ("cifar10", "configs/cifar10.py", "configs/cifar10.py:argument"):
    assert pathlib.Path(config_files.find_config(name).split(":")[0]).is_file()
  with pytest.raises(ConfigError, match="Did you mean 'cifar10'"):
    config_files.find_config("configs/cifr10.py")


@pytest.mark.parametrize("key, value, message", [
    ("loss.name", "nt_xnt", "Did you mean 'nt_xent'"),
    ("loss.kwargs", {"gama": 1.0}, "gama"),
    ("loss.temperature", -1.0, "temperature must be positive"),
    ("whitening.method", "zca2", "Did you mean 'zca'"),
    ("selection.rule", "greeedy", "Did you mean 'greedy'"),
    ("data.path", "memory", "resident"),
    ("batch_size", 0, "batch_size must be at least 2"),
    ("epochs", 0, "both 0"),
    ("model.width", 0.001, "config.model.width=0.001"),
    ("model.width", float("nan"), "config.model.width=nan"),
    ("model.stem", "imagenette", "Did you mean 'imagenet'"),
    ("augment.crop_scale", (2.0, 1.0), "config.augment.crop_scale"),
    ("loss.temperature", float("inf"), "config.loss.temperature"),
    ("loss.temperature", 1e-40, "config.loss.temperature"),
    ("loss.temperature", 1e-8, "config.loss.temperature"),
    ("optimizer.weight_decay", float("nan"), "config.optimizer.weight_decay"),
    ("optimizer.learning_rate", float("inf"), "config.optimizer.learning_rate"),
    ("batch_size", 1, "batch_size must be at least 2"),
    ("eval.probe_c", -1.0, "config.eval.probe_c"),
    ("data.image_size", 1, "config.data.image_size"),
    ("sharding", (("(", "fsdp"),), "not a regular expression"),
    ("sharding", (1,), "must hold pairs"),
    ("batch_size", None, "config.batch_size must not be None; 256 is the default"),
    ("optimizer.warmup_epochs", None, "config.optimizer.warmup_epochs must not be None"),
    ("learners", None, "config.learners must not be None"),
    ("main_learner", "cl", "main_learner")])
def test_wrong_values(key, value, message):
  config = load_config("digits")
  config.steps = 0
  config.update_from_flattened_dict({key: value})
  with pytest.raises(ValueError, match=message):
    check_config(config)


def test_batches_that_do_not_fit():
  config = load_config("digits")
  one, eight = make_mesh(devices=jax.devices()[:1]), make_mesh(devices=jax.devices()[:8])
  dataset = open_dataset(config.data)
  for mesh, batch, pieces, message in (
      (one, 2000, 1, "larger than the training set"), (eight, 100, 1, "use 96 or 104"),
      (one, 256, 3, "microbatches=3"), (eight, 64, 16, "divisor of 8")):
    config.batch_size, config.microbatches = batch, pieces
    with pytest.raises(ValueError, match=message):
      check_batch(config, dataset, mesh)
  config.batch_size, config.microbatches, config.eval.knn_k = 256, 1, 1437
  with pytest.raises(ValueError, match="knn_k=1437 neighbors would be all of the 1437 training images"):
    check_batch(config, dataset, one)
  with pytest.raises(ValueError, match="model_parallel must divide"):
    make_mesh(3, jax.devices()[:8])


def test_a_workdir_belongs_to_one_config_and_one_process(tmp_path):
  config = load_config("digits")
  with claim(tmp_path / "run", config) as folder:
    with pytest.raises(RuntimeError, match="another process"):
      with claim(folder, config):
        pass
  before = (folder / "config.json").read_bytes()
  config.optimizer.learning_rate = 0.5
  with pytest.raises(ValueError, match=r"another config(.|\n)*optimizer.learning_rate: 0.003 there, 0.5 now"):
    with claim(folder, config):
      pass
  assert (folder / "config.json").read_bytes() == before
  (tmp_path / "file").write_text("")
  with pytest.raises(ValueError, match="cannot be written: Not a directory"):
    with claim(tmp_path / "file" / "run", config):
      pass


def test_a_run_begun_where_none_stood_for_no_crop_goes_on(tmp_path):
  config = load_config("digits")
  with claim(tmp_path, config) as folder:
    path = folder / "config.json"
  content = json.loads(path.read_text())
  assert content["augment"]["crop_scale"] == []
  path.write_text(json.dumps({**content, "augment": {**content["augment"], "crop_scale": None}}))
  with claim(tmp_path, config):
    pass
  config.augment.crop_scale = (0.5, 1.0)
  with pytest.raises(ConfigError, match=r"crop_scale: None there, \[0.5, 1.0\] now"):
    with claim(tmp_path, config):
      pass


@pytest.mark.parametrize("name", CONFIGS)
def test_a_flag_can_set_every_key(name):
  config = load_config(name)
  sections = [(key, config[key]) for key in keys(config) if hasattr(config[key], "get_type")] + [("", config)]
  assert not [f"{section}.{key}" for section, content in sections for key in content
              if content.get_type(key) is type(None)]


def test_the_config_may_stand_after_its_keys():
  argv = ["main.py", "--config.steps=3", "--config", "digits", "--workdir=x"]
  words, path = command.resolved(argv, "mnist")
  assert words == ["main.py", f"--config={path}", "--config.steps=3", "--workdir=x"] and path.endswith("digits.py")
  assert command.resolved(["main.py", "--config.steps=3"], "mnist")[1].endswith("mnist.py")


def test_the_command_answers_without_a_traceback():
  words = [sys.executable, "-m", "spectral_jax.main", "--config.batch_sise=3"]
  result = subprocess.run(words, cwd=ROOT, capture_output=True, text=True)
  assert result.returncode == 1
  assert result.stderr.strip() == "Error: --config.batch_sise: the config has no such key. Did you mean 'batch_size'?"


@pytest.mark.parametrize("devices, kept", [(1, True), (2, False)])
def test_compiled_programs_are_kept_where_they_can_be_read_back(devices, kept, tmp_path):
  program = ("import jax; from spectral_jax import command; command.keep_compiled(); "
             "jax.jit(lambda x: x @ x)(jax.numpy.ones((8, 8))); print(bool(jax.config.jax_enable_compilation_cache))")
  environment = {"PATH": "", "HOME": str(tmp_path), "PYTHONPATH": str(ROOT), "JAX_NUM_CPU_DEVICES": str(devices),
                 "JAX_PLATFORMS": "cpu", "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0"}
  done = subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True, text=True, check=True)
  assert done.stdout.split() == [str(kept)]
  assert any((tmp_path / ".cache").rglob("*-cache")) == kept
  if kept:  # half of a program, as a kill or a full disk leaves it, is noticed once and made again
    start = lambda: subprocess.run(
        [sys.executable, "-c", program], env=environment, capture_output=True, text=True, check=True).stderr
    for path in (tmp_path / ".cache").rglob("*-cache"):
      path.write_bytes(path.read_bytes()[:200])
    first = start()
    assert "jit__lambda): it is removed and compiled anew" in first and "UserWarning" not in first
    assert not start()
