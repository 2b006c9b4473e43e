"""Batches chosen inside a run: the bank is the encoder's, the choice repeats itself, a resumed run too."""

from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from spectral_jax._errors import ConfigError
from spectral_jax.config import load_config
from spectral_jax.data import open_dataset
from spectral_jax.evaluation import split_features
from spectral_jax.mesh import make_mesh, over_data
from spectral_jax.selection import epoch_batches
from spectral_jax.training import loop
from spectral_jax.training.batches import planner
from spectral_jax.training.batches.tables import epoch_indices, of_stored
from spectral_jax.training.checks import check_config
from spectral_jax.training.run import prepare
from spectral_jax.training.state import averaged_variables, variables
from spectral_jax.workdir import checkpoints
from spectral_jax.workdir.logs import read_metrics

# Batches of 240 of 1,437 digits: an epoch has 5 steps.
SETTINGS = {
    "batch_size": 240, "steps": 24, "log_every": 2, "diagnostics_every": 0, "eval_every_epochs": 0,
    "checkpoint.every_steps": 7, "checkpoint.keep": 10, "optimizer.warmup_epochs": 0, "model.width": 0.125,
    "model.projector_hidden": 8, "model.projector_dim": 8, "eval.knn_limit": 200, "eval.test_limit": 50,
    "selection.rule": "greedy", "selection.candidates": 16, "bank.refresh_epochs": 1}
EPOCH = 5


def config_of(**changes):
  config = load_config("digits")
  config.update_from_flattened_dict({**SETTINGS, **changes})
  return config


@pytest.fixture(scope="module")
def digits():
  return open_dataset(config_of().data)


@pytest.fixture(scope="module")
def one_device(digits):
  return prepare(config_of(), digits, make_mesh(devices=jax.devices()[:1]))


@pytest.fixture(scope="module")
def whole(one_device, tmp_path_factory):
  """An uninterrupted run: its last state, its folder, and the tables that it kept."""
  folder = tmp_path_factory.mktemp("whole")
  state, _ = loop.train(one_device, folder)
  return state, folder


def kept_tables(run, folder):
  """The tables and bank of every checkpoint."""
  example = loop._content(run.init(), planner.first_tables(run.plan, run.bank))
  with checkpoints.open_checkpoints(folder, read_only=True) as manager:
    return {step: of_stored(checkpoints.restore(manager, step, example)[0]["tables"]) for step in manager.all_steps()}


def test_the_bank_is_the_encoders_embedding_of_every_training_image(one_device, digits):
  state = one_device.init()
  everything = np.arange(digits.train.size)
  _, z = split_features(
      one_device.program.encode, variables(state.learners["main"]), digits.train, everything, batch_size=512,
      mesh=one_device.mesh)
  z = np.asarray(z, np.float64)
  z /= np.linalg.norm(z, axis=1, keepdims=True)
  rows = one_device.bank.refresh(state)
  np.testing.assert_allclose(rows, z, atol=1e-5)
  many = prepare(config_of(**{"bank.dtype": "bfloat16"}), digits, make_mesh(devices=jax.devices()[:8]))
  spread = many.bank.refresh(many.init())
  assert spread.shape == (1440, 8) and spread.dtype == jnp.bfloat16 and spread.sharding == over_data(many.mesh)
  assert spread.sharding == many.bank.empty().sharding
  gathered = many.bank.rows(spread)
  assert gathered.shape == (1437, 8) and len(gathered.devices()) == 1
  np.testing.assert_allclose(gathered.astype(jnp.float32), z, atol=2e-2)


def test_epochs_are_chosen_from_the_bank_of_the_epoch_before(one_device, whole):
  tables = kept_tables(one_device, whole[1])
  assert sorted(tables) == [7, 14, 21, 24]
  assert [tables[step].epoch for step in (7, 14, 21, 24)] == [1, 2, 4, 4]
  np.testing.assert_array_equal(tables[7].present, epoch_indices(0, 1, 1437, 240))
  for step in (7, 14):
    expected, _ = planner.chosen_table(one_device.plan, tables[step].epoch + 1, one_device.bank.rows(tables[step].bank))
    np.testing.assert_array_equal(tables[step].following, expected)
    assert len(np.unique(expected)) == expected.size == 1200
    assert (expected != epoch_indices(0, tables[step].epoch + 1, 1437, 240)).any()
  np.testing.assert_array_equal(tables[14].present, tables[7].following)


def test_what_is_said_about_selection(whole):
  lines = [r for r in read_metrics(whole[1]) if "selection_seconds" in r]
  assert len(lines) == 3  # for epochs 2, 3 and 4: the first two are random, the last has no successor
  for line in lines:
    assert line["refresh_seconds"] > 0 and line["selection_seconds"] > 0
    assert 1 <= line["selected_rank"] <= 8 and 1 <= line["random_rank"] <= 8
  assert all(0 < line["selection_share"] < 1 for line in lines[1:])


class Stopped(Exception):
  pass


def stopping(run, calls):
  """The run with a step that works so many times."""
  left = iter(range(calls))

  def stops(*arguments):
    if next(left, None) is None:
      raise Stopped
    return run.program.step(*arguments)

  return run._replace(program=run.program._replace(step=stops))


def test_an_interrupted_run_ends_with_the_same_bits(one_device, whole, tmp_path):
  for calls in (8, 2, 10):  # goes on from the beginning, from step 7 and from step 7 again, then from 14
    with pytest.raises(Stopped):
      loop.train(stopping(one_device, calls), tmp_path)
  state, _ = loop.train(one_device, tmp_path)
  assert int(checkpoints.fingerprint(state)) == int(checkpoints.fingerprint(whole[0]))
  assert timeless(tmp_path) == timeless(whole[1])


def timeless(folder):
  return [{k: v for k, v in record.items() if not any(word in k for word in ("second", "share"))}
          for record in read_metrics(folder)]


@pytest.mark.parametrize("rule, coverage, more", [("pool", "independent", 1), ("hard", "oversampled", -1)])
def test_other_rules_do_what_they_are_for(one_device, digits, tmp_path, rule, coverage, more):
  config = config_of(**{"selection.rule": rule, "selection.coverage": coverage, "steps": 11})
  loop.train(prepare(config, digits, one_device.mesh), tmp_path)
  [line] = [r for r in read_metrics(tmp_path) if "selection_seconds" in r]
  assert np.sign(line["selected_rank"] - line["random_rank"]) == more


def test_the_bank_of_an_averaged_encoder_is_the_averages(one_device, digits):
  run = prepare(config_of(**{"bank.momentum": 0.75}), digits, one_device.mesh)
  state = run.init()
  learner = state.learners["main"]
  moved = learner._replace(params={**learner.params, "model": jax.tree.map(lambda p: p + 1, learner.params["model"])})
  rows = run.bank.refresh(state._replace(learners={"main": moved}))
  np.testing.assert_allclose(rows, one_device.bank.refresh(one_device.init()), atol=1e-5)


def test_a_run_on_eight_devices_with_an_averaged_encoder_and_another_loss(digits, tmp_path):
  config = config_of(**{"selection.rule": "log_det", "loss.name": "nscl", "steps": 11, "bank.momentum": 0.9,
                        "bank.dtype": "bfloat16"})
  state, host = loop.train(prepare(config, digits, make_mesh(devices=jax.devices()[:8])), tmp_path)
  assert int(state.step) == 11 and np.isfinite(host["last"]["loss"])
  assert sum("selection_seconds" in r for r in read_metrics(tmp_path)) == 1


def test_the_bank_is_refreshed_when_the_config_says(one_device, digits, tmp_path):
  config = config_of(**{"steps": 30, "bank.refresh_epochs": 3})
  loop.train(prepare(config, digits, one_device.mesh), tmp_path)
  lines = [r for r in read_metrics(tmp_path) if "selection_seconds" in r]
  assert ["refresh_seconds" in line for line in lines] == [True, False, False, True]


def test_the_average_follows_the_parameters(digits):
  run = prepare(config_of(**{"bank.momentum": 0.75}), digits, make_mesh(devices=jax.devices()[:1]))
  state = run.init()
  leaf = lambda tree: np.asarray(jax.tree.leaves(tree)[0], np.float64)
  average = leaf(state.learners["main"].params)
  np.testing.assert_array_equal(leaf(state.learners["main"].average), average)
  for batch in run.feed(epoch_indices(0, 0, digits.train.size, 240)[:3], 0):
    state, _ = run.step(state, batch)
    average = 0.75 * average + 0.25 * leaf(state.learners["main"].params)
  np.testing.assert_allclose(leaf(averaged_variables(state.learners["main"])["params"]), average, rtol=1e-5)
  assert (leaf(state.learners["main"].average) != leaf(state.learners["main"].params)).any()


def test_streamed_images_are_read_in_the_order_that_was_chosen(tmp_path):
  pytest.importorskip("tensorflow")
  random = np.random.default_rng(0)
  for part, count in (("train", 12), ("test", 2)):
    for name in ("cat", "dog"):
      (tmp_path / part / name).mkdir(parents=True)
      for i in range(count):
        Image.fromarray(random.integers(0, 255, (20, 20, 3), np.uint8)).save(tmp_path / part / name / f"{i}.png")
  config = config_of(**{
      "data.name": "folder", "data.data_dir": str(tmp_path), "data.path": "stream", "data.image_size": 8,
      "augment.crop_scale": (0.5, 1.0), "batch_size": 8, "steps": 9, "selection.candidates": 3, "eval.knn_k": 3})
  run = prepare(config, open_dataset(config.data), make_mesh(devices=jax.devices()[:1]))
  state, _ = loop.train(run, tmp_path / "run")
  assert int(state.step) == 9
  tables = kept_tables(run, tmp_path / "run")[7]
  assert tables.epoch == 2 and len(np.unique(tables.present)) == 24
  streamed = np.concatenate([b["index"] for b in run.feed(tables.present, 6)])
  np.testing.assert_array_equal(streamed, tables.present.ravel())


@pytest.mark.parametrize("changes, message", [
    ({"selection.candidates": -1}, r"config\.selection: candidates must be at least 1"),
    ({"selection.rule": "gcbs", "selection.coverage": "independent"},
     'config.selection: rule="gcbs" splits the examples'),
    ({"selection.objective": "target"}, "needs target"),
    ({"selection.target": 1.5}, r"target must lie in \(0, 1\]"),
    ({"selection.coverage": "everything"}, "coverage must be one of"),
    ({"selection.superbatch": 0}, "superbatch must be at least 1"),
    ({"bank.refresh_epochs": 0}, "config.bank.refresh_epochs must be at least 1"),
    ({"bank.momentum": 1.0}, r"config.bank.momentum must lie in \[0, 1\)"),
    ({"bank.dtype": "float8"}, "config.bank.dtype must be"),
])
def test_a_selection_that_cannot_work_is_refused_before_training(changes, message):
  with pytest.raises(ValueError, match=message):
    config = config_of(**changes)
    planner.check_bank(config.bank)
    planner.check_selection(config, 1437)


def test_epochs_are_chosen_from_the_third_on_while_steps_are_left():
  config = config_of()
  plan = planner.make_plan(config, 1437, 3 * (1437 // config.batch_size) + 1)
  assert [plan.is_selected(epoch) for epoch in range(5)] == [False, False, True, True, False]


def test_a_run_too_short_to_choose_a_batch_is_refused():
  config = config_of()
  with pytest.raises(ConfigError, match=r"would choose no batch: .*more than 10 steps, or set the rule to 'random'"):
    planner.make_plan(config, 1437, 2 * (1437 // config.batch_size))


def test_the_share_of_selection_is_of_the_seconds_since_this_process_began():
  plan = planner.make_plan(config_of(**{"selection.rule": "random"}), 1437, 10)
  clock = iter([100.0, 104.0])  # a run that goes on has trained before
  with planner.Planner(plan, None, planner.first_tables(plan, None), SimpleNamespace(seconds=lambda: next(clock))) as one:
    one._spent = 1.0
    assert one._share() == {"selection_share": 0.25}


def test_epochs_choose_by_draws_of_their_own(one_device):
  """From one bank, two epochs choose other batches, and one epoch the same ones again."""
  rows = one_device.bank.rows(one_device.bank.refresh(one_device.init()))
  first, again, other = (planner.chosen_table(one_device.plan, epoch, rows)[0] for epoch in (2, 2, 3))
  np.testing.assert_array_equal(first, again)
  assert (first != other).mean() > 0.9


def given_table(epochs=2):
  """A user's tables, and the same of another user."""
  return np.stack([epoch_indices(seed, 0, 1437, 240) for seed in range(100, 100 + epochs)])


def test_batches_from_a_file_are_those_trained_on(one_device, digits, tmp_path):
  """Epoch e takes table e % 2, a run that was interrupted goes on with it, and another file is refused."""
  np.save(tmp_path / "table.npy", given_table())
  config = config_of(**{"selection.rule": "file", "selection.table": str(tmp_path / "table.npy"), "steps": 14})
  run = prepare(config, digits, one_device.mesh)
  assert run.bank is None and run.plan.options is None
  seen = []
  recording = run._replace(feed=lambda table, step: seen.append(table) or run.feed(table, step))
  whole, _ = loop.train(recording, tmp_path / "whole")
  np.testing.assert_array_equal(np.concatenate(seen), np.concatenate(given_table()[[0, 1, 0]])[:14])
  with pytest.raises(Stopped):
    loop.train(stopping(run, 9), tmp_path / "stopped")
  np.save(tmp_path / "table.npy", given_table()[::-1])
  with pytest.raises(ConfigError, match="not the one that this run began with"):
    loop.train(prepare(config, digits, one_device.mesh), tmp_path / "stopped")
  np.save(tmp_path / "table.npy", given_table())
  state, _ = loop.train(prepare(config, digits, one_device.mesh), tmp_path / "stopped")
  assert int(checkpoints.fingerprint(state)) == int(checkpoints.fingerprint(whole))


def test_jest_prefers_what_the_reference_has_learned(one_device, digits, tmp_path):
  """Against classes as the reference, batches are drawn from the bank as epoch_batches draws them, and run on."""
  reference = np.eye(10)[digits.train.labels]
  np.savez(tmp_path / "reference.npz", embeddings=reference, labels=digits.train.labels)
  config = config_of(**{"selection.rule": "jest", "selection.coverage": "oversampled", "selection.oversample": 3,
                        "selection.reference": str(tmp_path / "reference.npz"), "steps": 14})
  run = prepare(config, digits, one_device.mesh)
  loop.train(run, tmp_path / "run")
  assert sum("selection_seconds" in r for r in read_metrics(tmp_path / "run")) == 1
  tables = kept_tables(run, tmp_path / "run")[7]
  rows = run.bank.rows(tables.bank)
  key = jax.random.fold_in(jax.random.key(0), 2)
  expected = epoch_batches(key, rows, 240, rule="jest", coverage="oversampled", oversample=3,
                           reference=jnp.asarray(reference, jnp.float32))
  np.testing.assert_array_equal(tables.following, expected)


@pytest.mark.parametrize("content, message", [
    (given_table()[:, :4], r"shape \(5, 240\)"), (given_table() + 300, "indices from 0 to 1436"),
    (given_table() // 2, "hold an example twice"), (None, "is no file")])
def test_a_table_that_does_not_fit_the_data_is_refused_before_any_work(content, message, one_device, digits, tmp_path):
  path = tmp_path / "table.npy"
  if content is not None:
    np.save(path, content)
  config = config_of(**{"selection.rule": "file", "selection.table": str(path)})
  with pytest.raises(ConfigError, match=message):
    check_config(config)
    prepare(config, digits, one_device.mesh)


@pytest.mark.parametrize("content, message", [
    (np.ones((1436, 3)), r"shape \(1437, d\).*got float64 of shape \(1436, 3\)"),
    (np.ones(1437), r"got float64 of shape \(1437,\)"),
    (np.ones((1437, 3), int), "got int64"), (np.full((1437, 3), np.nan), "NaN or inf in 1437 rows"),
    (dict(a=np.ones((1437, 3)), b=np.ones(2)), '2 arrays, a, b; name the one "embeddings"'),
    (dict(features=np.ones((3, 3)), labels=np.ones(3)), r"shape \(3, 3\)"),
    (b"not an array", "cannot be used"), (b"", "cannot be used")])
def test_a_reference_that_does_not_fit_is_refused_before_any_work(content, message, tmp_path):
  path = tmp_path / "reference.npz"
  if isinstance(content, dict):
    np.savez(path, **content)
  else:
    with path.open("wb") as file:
      file.write(content) if isinstance(content, bytes) else np.save(file, content)
  config = config_of(**{"selection.rule": "jest", "selection.coverage": "oversampled",
                        "selection.reference": str(path)})
  with pytest.raises(ConfigError, match=message):
    planner.check_selection(config, 1437)


@pytest.mark.parametrize("changes, message", [
    ({"selection.rule": "file"}, "needs an index table.*--config.selection.table=PATH"),
    ({"selection.rule": "jest"}, "needs a reference model's embeddings.*--config.selection.reference=PATH"),
    ({"selection.table": "mine.npy"}, "read by rule='file' alone, and the rule is 'greedy'"),
    ({"selection.rule": "jest", "selection.reference": "/"}, "is no file")])
def test_files_and_rules_go_together(changes, message):
  with pytest.raises(ConfigError, match=message):
    check_config(config_of(**changes))
