"""Trained encoders read back: the features of training's own evaluation, from the workdir alone; runs that start from them."""

import json
import os
import re
import shutil
import subprocess
import sys
import time

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import spectral_jax
from spectral_jax import embedding, job
from spectral_jax._errors import ConfigError, RunError
from spectral_jax.config import load_config
from spectral_jax.data.folder import open_images
from spectral_jax.defaults import get_defaults, learner, learners
from spectral_jax.encoder import read_network
from spectral_jax.evaluation import split_features
from spectral_jax.mesh import make_mesh
from spectral_jax.models import build_model, make_encode
from spectral_jax.training import loop
from spectral_jax.training.run import open_run
from spectral_jax.training.start import taken_over
from spectral_jax.training.state import variables as variables_of
from spectral_jax.workdir.folder import claim, read_config

SETTINGS = {
    "batch_size": 64, "steps": 8, "log_every": 4, "diagnostics_every": 0, "eval_every_epochs": 0,
    "checkpoint.every_steps": 4, "optimizer.warmup_epochs": 0, "model.width": 0.125, "model.projector_hidden": 8,
    "model.projector_dim": 8, "eval.knn_limit": 100, "eval.test_limit": 60,
    "augment.affine": {}, "augment.flip": True}


def tiny(**changes):
  config = load_config("digits")
  config.update_from_flattened_dict({**SETTINGS, **changes})
  config.learners = learners(cl=learner("dcl"), ce=learner("cross_entropy"))
  config.main_learner = "cl"
  return config


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
  """A workdir of two learners with checkpoints of steps 4 and 8, the latter evaluated; its run and its last state."""
  folder = tmp_path_factory.mktemp("trained")
  run = open_run(tiny(), make_mesh(devices=jax.devices()[:1]))
  with claim(folder, run.config) as claimed:
    state, _ = loop.train(run, claimed)
  return folder, run, jax.device_get(state)


@pytest.mark.parametrize("name, learner", [("cl", None), ("cl", "cl"), ("ce", "ce")])
@pytest.mark.parametrize("step", ["best", "last", 8])
def test_features_are_those_of_the_runs_own_evaluation(trained, name, learner, step):
  folder, run, state = trained
  images = run.dataset.test.images()[:32]
  apply, variables = spectral_jax.load_encoder(folder, step=step, learner=learner)
  jax.tree.map(np.testing.assert_array_equal, variables, variables_of(state.learners[name]))
  expected, _ = run.program.encode(variables_of(state.learners[name]), images)
  found = apply(variables, images)
  assert found.dtype == jnp.float32 and found.shape == (32, expected.shape[1])
  np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6)


def test_an_earlier_step_is_another_encoder(trained):
  folder, run, state = trained
  _, variables = spectral_jax.load_encoder(str(folder), step=4)
  kernel = variables["params"]["encoder"]["conv1"]["kernel"]
  assert np.abs(kernel - state.learners["cl"].params["model"]["encoder"]["conv1"]["kernel"]).max() > 0


def test_float_and_integer_images_are_one_and_nan_stays(trained):
  folder, run, _ = trained
  apply, variables = spectral_jax.load_encoder(folder)
  images = run.dataset.test.images()[:8]
  whole = apply(variables, images)
  for dtype, close in ((np.float32, 1e-6), (np.float64, 1e-6), (jnp.bfloat16, 2e-2)):
    part = jnp.asarray(images / 255, dtype) if dtype is jnp.bfloat16 else (images / 255).astype(dtype)
    np.testing.assert_allclose(apply(variables, part), whole, rtol=close, atol=close)
  bad = (images / 255).astype(np.float32)
  bad[3, 2, 2] = np.nan
  assert np.isnan(apply(variables, bad)[3]).any() and np.isfinite(apply(variables, bad)[:3]).all()
  # One image alone has the features that it has among others: running statistics, not the batch's.
  np.testing.assert_allclose(apply(variables, images[:1]), whole[:1], rtol=1e-5, atol=1e-6)
  assert apply(variables, images[:0]).shape == (0, whole.shape[1])


def test_it_can_be_trained_and_compiled_into_more(trained):
  folder, run, _ = trained
  apply, variables = spectral_jax.load_encoder(folder)
  images = jnp.asarray(run.dataset.test.images()[:4] / 255, jnp.float32)
  slope = jax.jit(jax.grad(lambda v: jnp.sum(apply(v, images) ** 2)))(variables)
  assert np.abs(slope["params"]["encoder"]["conv1"]["kernel"]).max() > 0
  np.testing.assert_array_equal(slope["params"]["projector"]["hidden1"]["kernel"], 0)
  # Traced images too: under jit, mapped one by one, and differentiated.
  features = apply(variables, images)
  np.testing.assert_allclose(jax.jit(apply)(variables, images), features, rtol=1e-5, atol=1e-6)
  one_by_one = jax.vmap(lambda image: apply(variables, image[None])[0])(images)
  np.testing.assert_allclose(one_by_one, features, rtol=1e-5, atol=1e-6)
  assert np.abs(jax.grad(lambda x: jnp.sum(apply(variables, x)))(images)).max() > 0


@pytest.mark.parametrize("images, error, message", [
    (np.zeros((8, 8, 1), np.uint8), ValueError, r"images must be \(b, h, w, c\)"),
    (np.zeros((2, 8, 8, 3), np.uint8), ValueError, "as many channels as it was trained on"),
    (np.full((2, 8, 8, 1), 200.0), ValueError, "divide by 255"),
    (np.where(np.arange(8)[:, None] == 3, np.nan, np.full((2, 8, 8, 1), 200.0)), ValueError, "divide by 255"),
    (np.zeros((2, 20, 12, 1), np.uint8), ValueError, r"trained on images of 8x8 pixels; give that size"),
    (np.zeros((2, 0, 0, 1), np.uint8), ValueError, r"must have pixels and channels, got the shape \(2, 0, 0, 1\)"),
    ([[[[0.0]]]], TypeError, "images must be an array, got list; convert it with np.asarray"),
    (None, TypeError, "images must be an array, got NoneType"),
    (np.zeros((2, 8, 8, 1), np.int64), TypeError, "must be uint8 or floats"),
    (np.zeros((2, 8, 8, 1), bool), TypeError, "must be uint8 or floats")])
def test_wrong_images_are_answered(trained, images, error, message):
  apply, variables = spectral_jax.load_encoder(trained[0])
  with pytest.raises(error, match=message):
    apply(variables, images)


def test_wrong_variables_are_answered(trained):
  apply, variables = spectral_jax.load_encoder(trained[0])
  for wrong, got in ((None, "got NoneType"), (variables["params"], r"got \['encoder', 'projector'\]")):
    with pytest.raises(TypeError, match="variables must be a dictionary with batch_stats and params.*" + got):
      apply(wrong, np.zeros((2, 8, 8, 1), np.uint8))


def test_wrong_places_are_answered(trained, tmp_path):
  folder = trained[0]
  for keywords, message in (
      ({"step": 5}, "step=5 is not in .*; there are 4, 8"),
      ({"step": "bst"}, "step must be 'best', 'last' or an integer"),
      ({"step": True}, "step must be"), ({"learner": "cll"}, "Did you mean 'cl'.*'ce', 'cl'")):
    with pytest.raises(ConfigError, match=message):
      spectral_jax.load_encoder(folder, **keywords)
  with pytest.raises(ConfigError, match="is not a folder"):
    spectral_jax.load_encoder(tmp_path / "none")
  with pytest.raises(ConfigError, match="no run was made in it.*It holds workdirs: trained"):
    shutil.copytree(folder, tmp_path / "trained")
    spectral_jax.load_encoder(tmp_path)
  copy = tmp_path / "trained"
  (copy / "config.json").write_text('{"data": {}, "model"')
  with pytest.raises(ConfigError, match="config.json is damaged.*checkpoints are not touched"):
    spectral_jax.load_encoder(copy)
  (copy / "config.json").write_text('{"seed": 0}')
  with pytest.raises(ConfigError, match="lacks the sections"):
    spectral_jax.load_encoder(copy)
  shutil.copy(folder / "config.json", copy)
  shutil.rmtree(copy / "checkpoints" / "8")
  with pytest.raises(ConfigError, match="no checkpoint of .* has been evaluated yet.*step='last' or one of 4"):
    spectral_jax.load_encoder(copy)
  [data] = [f for f in (copy / "checkpoints" / "4" / "arrays" / "ocdbt.process_0" / "d").iterdir()
            if f.stat().st_size > 1000][:1]
  content = bytearray(data.read_bytes())
  content[len(content) // 2] ^= 1
  data.write_bytes(content)
  with pytest.raises(RunError, match="checkpoint .* is damaged"):
    spectral_jax.load_encoder(copy, step="last")
  shutil.rmtree(copy / "checkpoints")
  with pytest.raises(ConfigError, match="holds no checkpoints"):
    spectral_jax.load_encoder(copy)


def test_importing_the_package_loads_neither_flax_nor_orbax():
  script = "import sys, spectral_jax; dir(spectral_jax); print(*(m for m in ('flax', 'orbax', 'optax') if m in sys.modules))"
  assert subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True).stdout.split() == []


def test_a_config_of_an_earlier_version_is_filled_with_defaults(trained, tmp_path):
  content = json.loads((trained[0] / "config.json").read_text())
  del content["init_from"], content["bank"]
  (tmp_path / "config.json").write_text(json.dumps(content))
  config, defaults = read_config(tmp_path), get_defaults()
  assert config.bank == defaults.bank and config.init_from == "" and config.model.width == 0.125
  assert set(config.learners) == {"cl", "ce"}
  now = tiny()
  now.bank = defaults.bank
  with claim(tmp_path, now):  # such a run goes on
    pass


def save_images(root, count, color):
  from PIL import Image
  random = np.random.default_rng(0)
  for i in range(count):
    folder = root / "ab"[i % 2]
    folder.mkdir(parents=True, exist_ok=True)
    shape = (11, 9, 3) if color else (11, 9)
    Image.fromarray(random.integers(0, 255, shape, dtype=np.uint8)).save(folder / f"{i}.png")
  Image.fromarray(random.integers(0, 255, (8, 8), dtype=np.uint8)).save(root / "loose.png")


def test_images_of_a_folder_whatever_its_depth(tmp_path, monkeypatch):
  save_images(tmp_path / "in", 5, color=True)
  (tmp_path / "in" / ".hidden").mkdir()
  (tmp_path / "in" / ".hidden" / "no.png").write_bytes(b"")
  arguments = {"image_size": 8, "channels": 1}
  split, names, classes = open_images(tmp_path / "in", **arguments)
  assert names == ["a/0.png", "a/2.png", "a/4.png", "b/1.png", "b/3.png", "loose.png"] and classes == ("a", "b")
  assert split.labels.tolist() == [0, 0, 0, 1, 1, -1] and split.images().shape == (6, 8, 8, 1)
  monkeypatch.setattr("spectral_jax.data.folder.fits_in_memory", lambda *_: False)
  monkeypatch.setenv("SPECTRAL_JAX_CACHE", str(tmp_path / "cache"))
  streamed, streamed_names, _ = open_images(tmp_path / "in", **arguments)
  assert not streamed.resident and streamed_names == names
  np.testing.assert_array_equal(streamed.images(), split.images())
  (tmp_path / "in" / "a" / "bad.png").write_bytes(b"nothing")
  with pytest.raises(ConfigError, match="bad.png"):
    open_images(tmp_path / "in", **arguments)
  assert open_images(tmp_path / "in", **arguments, on_undecodable="skip")[1] == names
  with pytest.raises(ConfigError, match="has no images"):
    (tmp_path / "empty").mkdir()
    open_images(tmp_path / "empty", **arguments)


def command(*arguments):
  environment = {**os.environ, "JAX_PLATFORMS": "cpu"}
  return subprocess.run([sys.executable, "-m", "spectral_jax.embed", *map(str, arguments)], env=environment,
                        capture_output=True, text=True)


def test_the_command_writes_features_and_variables(trained, tmp_path):
  folder, run, state = trained
  safetensors = pytest.importorskip("safetensors")
  features, exported = tmp_path / "features.npz", tmp_path / "encoder.safetensors"
  started = time.monotonic()
  done = command(folder, f"--out={features}", f"--export={exported}", "--batch_size=100")
  assert done.returncode == 0, done.stderr
  assert time.monotonic() - started < 60 and "360 images" in done.stdout
  found, test = np.load(features), run.dataset.test
  expected, _ = split_features(run.program.encode, variables_of(state.learners["cl"]), test, np.arange(test.size),
                               batch_size=360, mesh=run.mesh)
  np.testing.assert_allclose(found["features"], expected, rtol=1e-5, atol=1e-5)
  np.testing.assert_array_equal(found["labels"], test.labels)
  assert found["names"][7] == "test/7" and found["class_names"].tolist() == list("0123456789")
  with safetensors.safe_open(exported, "np") as file:
    np.testing.assert_array_equal(file.get_tensor("params.encoder.conv1.kernel"),
                                  state.learners["cl"].params["model"]["encoder"]["conv1"]["kernel"])
    about = json.loads(file.metadata()["about"])
    assert about["model"]["encoder"] == "convnet" and about["step"] == 8 and about["image_size"] == 8
    assert len(file.keys()) == len(jax.tree.leaves(variables_of(state.learners["cl"])))
  wrong = command(folder)
  assert wrong.returncode == 1 and "nothing to do" in wrong.stderr and "Traceback" not in wrong.stderr


# Calls the command several times in one process, with the flags of each line of argv[2] (JSON); prints what came.
CALLS = """
import json, sys
from absl import flags
from absl.testing import flagsaver
from spectral_jax import embed
flags.FLAGS(["embed"])
for values in json.loads(sys.argv[2]):
  with flagsaver.flagsaver(**values):
    try:
      embed.main([sys.argv[1]])
    except embed.ConfigError as error:
      print(error)
"""


def test_what_embed_cannot_use_is_said_in_its_own_flags(trained, tmp_path):
  save_images(tmp_path / "in", 3, color=False)
  bad, out = tmp_path / "in" / "bad.png", str(tmp_path / "f.npz")
  bad.write_bytes(b"nothing")
  calls = (
      ({"out": out, "data": "none/here"}, "--data='none/here' is not a folder; name one"),
      ({"out": out, "data": str(bad.parent)}, "bad.png .*--skip_undecodable$"),
      ({"out": out, "data": "digts"}, "^--data='digts' is not known. Did you mean 'digits'"),
      ({"out": "none/f.npz"}, "none is not a folder, so .*f.npz cannot be written.*another --out"),
      ({"export": "/proc/f.safetensors"}, "/proc/f.safetensors cannot be written: .*another --export"),
      ({"out": out, "data": str(bad.parent), "skip_undecodable": True}, "of 4 images.*; 1 undecodable left out: .*bad.png$"))
  done = subprocess.run([sys.executable, "-c", CALLS, str(trained[0]), json.dumps([values for values, _ in calls])],
                        env={**os.environ, "JAX_PLATFORMS": "cpu"}, capture_output=True, text=True)
  said = done.stdout.splitlines()
  assert len(said) == len(calls) and "config." not in done.stdout, done.stderr
  for line, (_, expected) in zip(said, calls):
    assert re.search(expected, line), line
  assert np.load(out)["skipped"].tolist() == [str(bad)]


def test_embedding_a_folder_converts_colors(trained, tmp_path):
  folder, _, _ = trained
  save_images(tmp_path, 5, color=True)
  config = read_config(folder)
  variables, _ = read_network(folder, config)
  found = embedding.embed(config, variables, str(tmp_path), batch_size=4)
  split, names, _ = open_images(tmp_path, image_size=8, channels=1)
  apply, loaded = spectral_jax.load_encoder(folder)
  np.testing.assert_allclose(found["features"], apply(loaded, split.images()), rtol=1e-5, atol=1e-6)
  assert found["names"].tolist() == names


def test_an_encoder_of_colors_takes_gray_images_too(trained, tmp_path):
  config = read_config(trained[0])
  model = build_model(config.model)
  variables = jax.jit(lambda: model.init(jax.random.key(0), jnp.zeros((1, 8, 8, 3)), train=False))()
  save_images(tmp_path, 3, color=True)
  save_images(tmp_path / "gray", 3, color=False)
  found = embedding.embed(config, variables, str(tmp_path), batch_size=4)
  images = open_images(tmp_path, image_size=8, channels=3)[0].images()
  assert images.shape == (8, 8, 8, 3)
  np.testing.assert_allclose(found["features"], make_encode(model)(variables, images)[0], rtol=1e-5, atol=1e-6)


def test_a_run_starts_from_what_another_learned(trained, tmp_path):
  folder, run, state = trained
  config = tiny(init_from=str(folder), steps=4)
  other = run._replace(config=config)
  begun = other.start()
  source = variables_of(state.learners["cl"])
  for one in begun.learners.values():
    jax.tree.map(np.testing.assert_array_equal, variables_of(one), source)
    assert all(int(count) == 0 for count in jax.tree.leaves(one.opt_state) if count.dtype == jnp.int32)
  assert int(begun.step) == 0
  fresh = run.init()
  np.testing.assert_array_equal(begun.learners["ce"].params["objective"]["head"]["kernel"],
                                fresh.learners["ce"].params["objective"]["head"]["kernel"])
  encoder = taken_over(fresh, tiny(init_from=str(folder), init_part="encoder", init_step="4"))
  early, _ = read_network(folder, config, step=4)
  mine = variables_of(encoder.learners["cl"])
  for part, expected in (("encoder", early), ("projector", variables_of(fresh.learners["cl"]))):
    jax.tree.map(np.testing.assert_array_equal, mine["params"][part], expected["params"][part])
    jax.tree.map(np.testing.assert_array_equal, mine["batch_stats"].get(part, {}),
                 expected["batch_stats"].get(part, {}))


def test_a_network_that_does_not_fit_is_named(trained):
  folder, run, _ = trained
  config = tiny(init_from=str(folder))
  state = run.init()
  model = state.learners["cl"].params["model"]
  wider = {**model, "projector": {**model["projector"], "hidden1": {"kernel": jnp.zeros((64, 9))}}}
  bad = state._replace(learners={"cl": state.learners["cl"]._replace(params={"model": wider, "objective": {}})})
  with pytest.raises(ConfigError, match=r"projector.hidden1.kernel: \(64, 8\) there, \(64, 9\) here.*init_part=encoder"):
    taken_over(bad, config)
  del wider["encoder"]["conv2"]
  with pytest.raises(ConfigError, match=r"encoder.conv2.kernel: \(.*\) there, absent here; projector"):
    taken_over(bad, config)
  with pytest.raises(ConfigError, match="^config.init_from='/nowhere', config.init_step='best': /nowhere is not a folder"):
    taken_over(state, tiny(init_from="/nowhere"))


@pytest.mark.parametrize("changes, message", [
    ({"init_from": "/nowhere"}, "is not a folder"), ({"init_step": "5"}, "step=5 is not in"),
    ({"model.projector_dim": 9}, "projector.out.kernel: .* there")])
def test_a_wrong_beginning_leaves_the_workdir_free(trained, tmp_path, changes, message):
  with pytest.raises(ConfigError, match=message):
    job.main_job(tiny(**{"init_from": str(trained[0]), **changes}), tmp_path / "run")
  assert not (tmp_path / "run").exists()


def test_a_longer_run_in_the_same_folder_says_why_not(trained):
  with pytest.raises(ConfigError, match="(?s)steps: 8 there, 16 now.*cannot be made longer.*schedule.*--config.init_from="):
    with claim(trained[0], tiny(steps=16)):
      pass
