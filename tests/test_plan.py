"""Fully sharded state is the same state; what a run is planned to take is what it takes."""

import json

import jax
import numpy as np
import pytest

from spectral_jax import losses, plan
from spectral_jax._errors import ConfigError
from spectral_jax.config import load_config
from spectral_jax.data import open_dataset
from spectral_jax.mesh import make_mesh
from spectral_jax.training.batches.tables import epoch_indices
from spectral_jax.training.objective import RING_IMAGES
from spectral_jax.training.run import prepare

SETTINGS = {"batch_size": 64, "steps": 3, "optimizer.warmup_epochs": 0, "model.width": 0.25,
            "model.projector_hidden": 32, "model.projector_dim": 16, "bank.momentum": 0.9}
EVERYTHING = ((".*", "fsdp"),)
DEVICES = 4
STEPS = 3


def config_of(sharding=(), **changes):
  config = load_config("digits")
  config.update_from_flattened_dict({**SETTINGS, **changes})
  config.sharding = sharding
  return config


def trained(sharding):
  """The state and the losses after a few steps on four devices."""
  config = config_of(sharding)
  run = prepare(config, open_dataset(config.data), make_mesh(devices=jax.devices()[:DEVICES]))
  state, losses = run.init(), []
  for batch in run.feed(epoch_indices(0, 0, run.dataset.train.size, config.batch_size)[:STEPS], 0):
    state, metrics = run.step(state, batch)
    losses.append(float(metrics["loss"]))
  return state, losses


@pytest.fixture(scope="module", autouse=True)
def flags():
  """As the command would have parsed them."""
  plan.flags.FLAGS(["plan"])


@pytest.fixture(scope="module")
def replicated():
  return trained(())


@pytest.fixture(scope="module")
def sharded():
  return trained(EVERYTHING)


def bytes_on_first(tree):
  first = jax.devices()[0]
  return sum(shard.data.nbytes for leaf in jax.tree.leaves(tree) for shard in leaf.addressable_shards
             if shard.device == first)


def test_fully_sharded_training_is_the_same_training(replicated, sharded):
  np.testing.assert_allclose(sharded[1], replicated[1], rtol=1e-5)
  for name in ("params", "opt_state", "average"):
    for a, b in zip(*(jax.tree.leaves(getattr(state.learners["main"], name)) for state, _ in (sharded, replicated))):
      # AdamW divides by the root of the gradient's square: where that is near zero, rounding shows.
      np.testing.assert_allclose(np.asarray(a), np.asarray(b), rtol=1e-3, atol=2e-4)


def test_fully_sharded_state_takes_a_quarter_of_each_device(replicated, sharded):
  whole, part = (bytes_on_first(state.learners) for state, _ in (replicated, sharded))
  assert whole / DEVICES <= part < 1.1 * whole / DEVICES


@pytest.mark.parametrize("sharding", [(), EVERYTHING])
def test_planned_state_is_what_lies_on_a_device(sharding, replicated, sharded):
  learner = (sharded if sharding else replicated)[0].learners["main"]
  found = plan.plan(config_of(sharding), plan.Sizes(1437, 10, 1), DEVICES)
  assert found["parameters"] == sum(leaf.size for leaf in jax.tree.leaves(learner.params))
  assert found["bytes_parameters"] == bytes_on_first(learner.params)
  assert found["bytes_optimizer"] == bytes_on_first(learner.opt_state)
  assert found["bytes_other_state"] == bytes_on_first((learner.batch_stats, learner.average, learner.memory))


def test_planned_arithmetic_is_that_of_the_layers():
  width = 4.0
  config = config_of(**{"model.width": width, "model.projector_hidden": 32, "model.projector_dim": 16})
  inputs, multiplications, side = 1, 0, 8
  for channels, stride in ((32, 1), (64, 2), (128, 2)):
    channels = round(width * channels)
    # Taps of a 3 x 3 window that lie on the image, over all its positions; JAX pads less before than after.
    before = 1 if stride == 1 else 0
    taps = sum(0 <= at * stride + k - before < side for at in range(side // stride) for k in range(3))**2
    # Forward, and backward to the kernel and to the input; nobody asks for the image's own gradient.
    multiplications += taps * inputs * channels * (2 if inputs == 1 else 3)
    inputs, side = channels, side // stride
  multiplications += 3 * (side * side * inputs * 32 + 32 * 16)
  found = plan.plan(config, plan.Sizes(1437, 10, 1), DEVICES)
  # Two images each, a multiply-add as two; beside the products there are normalizations and activations.
  assert 1 < found["flops_encoder"] / (config.batch_size * 2 * 2 * multiplications) < 1.1


@pytest.mark.parametrize("batch", [64, 512])
def test_planned_memory_of_a_loss_in_one_tile_is_what_the_compiler_gives_it(batch):
  found = plan.plan(config_of(batch_size=batch), plan.Sizes(1437, 10, 1), 1)
  rows = jax.ShapeDtypeStruct((batch, 16), np.float32)
  memory = jax.jit(jax.value_and_grad(losses.nt_xent, (0, 1))).lower(rows, rows).compile().memory_analysis()
  whole = memory.argument_size_in_bytes + memory.output_size_in_bytes + memory.temp_size_in_bytes
  assert found["bytes_loss"] == pytest.approx(whole, rel=0.05)


def test_planned_arithmetic_of_a_loss_is_that_of_its_products():
  found = plan.plan(config_of(batch_size=64), plan.Sizes(1437, 10, 1), DEVICES)
  product = 2 * (2 * 64)**2 * 16  # similarities; twice in the backward pass, where they are also made anew
  assert found["flops_loss"] == 4 * product


def test_a_ring_takes_of_each_device_what_its_own_images_take():
  loss = lambda batch, devices: plan.plan(config_of(batch_size=batch), plan.Sizes(10_000, 10, 1), devices)["bytes_loss"]
  assert loss(2 * RING_IMAGES, 2) == loss(RING_IMAGES, 1)
  assert loss(2 * RING_IMAGES - 2, 2) > loss(RING_IMAGES - 1, 1)  # too few: gathered


def test_a_bank_is_planned_where_batches_are_chosen_from_it():
  sizes = plan.Sizes(1437, 10, 1)
  chosen, random = (plan.plan(config_of(**{"selection.rule": rule}), sizes, DEVICES) for rule in ("greedy", "random"))
  assert (chosen["bytes_bank"], chosen["bytes_bank_whole"]) == (360 * 16 * 4, 1437 * 16 * 4)
  assert (random["bytes_bank"], random["bytes_bank_whole"]) == (0, 0)


def test_microbatches_take_less_memory_and_one_more_forward_pass():
  one, four = (plan.plan(config_of(microbatches=m, batch_size=1024), plan.Sizes(1437, 10, 1), DEVICES) for m in (1, 4))
  # Parameters are kept for the backward pass too, once in either.
  assert 3.8 < one["bytes_activations"] / four["bytes_activations"] < 4
  assert 1.2 < four["flops_encoder"] / one["flops_encoder"] < 1.6


def test_pace_and_table():
  config = config_of()
  found = plan.plan(config, plan.Sizes(1_000_000_000, 10, 1), 8)
  paced = found | plan.pace(found, "v5e", 0.5)
  assert paced["images_per_second"] == pytest.approx(
      64 * 8 * 197e12 * 0.5 / (found["flops_encoder"] + found["flops_loss"]))
  assert json.loads(json.dumps(paced)) == paced
  assert "of 15,259" in plan.table(paced, config) and "images/s" in plan.table(paced, config)
  assert "does not fit" not in plan.table(paced, config)
  assert "does not fit" in plan.table({**paced, "bytes_activations": paced["bytes_of_chip"]}, config)


def test_numbers_of_known_data_sets():
  data = load_config("imagenet1k").data
  assert plan.sizes_of(data) == (1_281_167, 1000, 3)
  assert plan.sizes_of(load_config("imagenet100").data) == (128_117, 100, 3)
  assert plan.sizes_of(load_config("digits").data) == (1437, 10, 1)
  assert plan.sizes_of(data, 10**9, 5) == (10**9, 5, 3)


@pytest.mark.parametrize("act, message", [
    (lambda: plan.plan(config_of(), plan.Sizes(1437, 10, 1), 3), "does not divide over 3 devices with config.microbatches=1; use .* or "),
    (lambda: plan.plan(config_of(model_parallel=3), plan.Sizes(1437, 10, 1), 4), "model_parallel=3 must divide"),
    (lambda: plan.pace({}, "abacus", 0.5), "--chip must be one of"),
    (lambda: plan.pace({}, "v4", 0.0), "--utilization must lie in"),
])
def test_what_cannot_be_planned_is_named(act, message):
  with pytest.raises(ConfigError, match=message):
    act()
