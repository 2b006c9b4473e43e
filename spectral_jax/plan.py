"""What a run will take, before it is begun: parameters, memory of a device, arithmetic, the pace of its input.

  python -m spectral_jax.plan --config=imagenet1k --devices=32 --chip=v5e [--config.KEY=VALUE ...]

Nothing is trained and nothing compiled: shapes are followed through the model. What is counted, and how near it comes
to what was measured: docs/scaling.md.
"""

from __future__ import annotations

import json
import math
from typing import TYPE_CHECKING, NamedTuple

from spectral_jax import command
from spectral_jax._errors import ConfigError
from spectral_jax.command import flags

if TYPE_CHECKING:
  from collections.abc import Mapping
  from typing import Any

  from spectral_jax._types import Config

DEVICES = flags.DEFINE_integer("devices", None, "How many devices; by default those of this machine.", lower_bound=1)
CHIP = flags.DEFINE_string(
    "chip", "", "What they are, for time and input: a100, h100, h200, v4, v5e, v5p, v6e or TFLOP/s.")
UTILIZATION = flags.DEFINE_float("utilization", 0.4, "Share of the chip's peak that the model's arithmetic reaches.")
EXAMPLES = flags.DEFINE_integer("examples", None, "Training images, where the data are not at hand.", lower_bound=1)
CLASSES = flags.DEFINE_integer("classes", None, "Classes, where the data are not at hand.", lower_bound=1)
JSON = flags.DEFINE_bool("json", False, "Print JSON.")

# Peak TFLOP/s of dense bfloat16 products and GB of memory, as the makers state them.
CHIPS = {"a100": (312, 80), "h100": (989, 80), "h200": (989, 141), "v4": (275, 32), "v5e": (197, 16), "v5p": (459, 95),
         "v6e": (918, 32)}
# Images, classes and channels of data sets that are large or must be fetched.
KNOWN = {"imagenet2012": (1_281_167, 1000, 3), "cifar10": (50_000, 10, 3), "cifar100": (50_000, 100, 3)}


class Sizes(NamedTuple):
  examples: int
  classes: int
  channels: int


def main(config: Config, name: str) -> None:
  import jax

  from spectral_jax.training.checks import check_config
  check_config(config)
  found = plan(config, sizes_of(config.data, EXAMPLES.value, CLASSES.value), DEVICES.value or jax.device_count())
  if CHIP.value:
    found |= pace(found, CHIP.value, UTILIZATION.value)
  print(json.dumps(found, indent=2) if JSON.value else table(found, config))


def sizes_of(data: Config, examples: int | None = None, classes: int | None = None) -> Sizes:
  """Images, classes and channels of `config.data`: as given, as known, or as found by opening it."""
  known = KNOWN.get(data.name)
  if known and data.classes:
    count = 100 if data.classes == "imagenet100" else int(data.classes)
    known = (round(known[0] * count / known[1]), count, known[2])
  if known is None and (examples is None or classes is None):
    from spectral_jax.data import open_dataset
    opened = open_dataset(data)
    known = (opened.train.size, len(opened.class_names), opened.train.channels)
  known = known or (0, 0, 3)
  return Sizes(examples or known[0], classes or known[1], known[2])


def plan(config: Config, sizes: Sizes, devices: int) -> dict[str, Any]:
  """What one training step of `config` takes on so many devices.

  Args:
    config: a resolved config.
    sizes: `Sizes` of the training set.
    devices: how many.

  Returns:
    A flat dictionary of numbers. Names that begin with "bytes_" are of one device: `bytes_parameters`,
    `bytes_optimizer`, `bytes_other_state` (statistics, averages, what objectives remember), `bytes_gradients`,
    `bytes_activations` (of one microbatch: all that JAX keeps for the backward pass), `bytes_views`, `bytes_loss`,
    `bytes_bank`, `bytes_bank_whole` (on the first device of each process while batches are chosen), `bytes_data`.
    "flops_" are of one step on all devices, a multiply-add as two.

  Raises:
    ConfigError: the batch does not divide over the devices.
  """
  import jax
  import jax.numpy as jnp
  from jax.sharding import AbstractMesh

  from spectral_jax.data.dataset import is_resident
  from spectral_jax.losses._engine import TILE_ROWS_DEFAULT
  from spectral_jax.mesh import make_mesh, state_shardings
  from spectral_jax.models import build_model
  from spectral_jax.training.batches.planner import selects
  from spectral_jax.training.objective import RING_IMAGES, learner_sections
  from spectral_jax.training.program import Shape, make_program

  if devices % config.model_parallel:
    raise ConfigError(f"config.model_parallel={config.model_parallel} must divide the number of devices, {devices}")
  mesh = AbstractMesh((devices // config.model_parallel, config.model_parallel), ("data", "model"))
  shards, batch, side = mesh.shape["data"], config.batch_size, config.data.image_size
  if batch % (shards * config.microbatches):
    pieces = shards * config.microbatches
    raise ConfigError(f"config.batch_size={batch} does not divide over {shards} devices with "
                      f"config.microbatches={config.microbatches}; use {batch // pieces * pieces or pieces} or "
                      f"{(batch // pieces + 1) * pieces}")
  image = (side, side, sizes.channels)
  resident = is_resident(config.data, sizes.examples, sizes.channels)
  one = make_mesh(devices=jax.devices()[:1])
  state = jax.eval_shape(make_program(config, Shape(image, sizes.examples, sizes.classes, resident, one)).init, 0)
  shardings = state_shardings(state, mesh, config.sharding)
  learners = learner_sections(config)

  def held(part):
    """Bytes of one device."""
    of = lambda leaf, sharding: math.prod(sharding.shard_shape(leaf.shape)) * leaf.dtype.itemsize
    trees = [(getattr(state.learners[name], part), getattr(shardings.learners[name], part)) for name in state.learners]
    return sum(jax.tree.leaves(jax.tree.map(of, *zip(*trees)))) if trees else 0

  model = build_model(config.model)
  learner = state.learners[next(iter(learners))]

  def embed(params, stats, images):
    network = {"params": params, "batch_stats": stats}
    return model.apply(network, images, train=True, mutable=["batch_stats"])[0][1]

  def pulled(params, stats, images):
    return jax.vjp(lambda params: embed(params, stats, images), params)[1]

  def slopes(params, stats, images):
    return jax.grad(lambda params: jnp.sum(embed(params, stats, images).astype(jnp.float32)))(params)

  network = learner.params["model"], learner.batch_stats
  images = lambda count: jax.ShapeDtypeStruct((count, *image), jnp.float32)
  size = lambda tree: sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(tree))
  per_device = batch // shards
  piece = per_device // config.microbatches
  kept = size(jax.eval_shape(pulled, *network, images(2 * piece)))

  def flops(function):
    """Of one example, that is two images: what another one adds to a batch, so that work on the parameters is left out.

    Lowered for an accelerator, where a convolution is the sum that defines it: on CPU it takes fewer products.
    """
    lowered = (jax.jit(function).trace(*network, images(count)).lower(lowering_platforms=("tpu",)) for count in (2, 4))
    few, more = (one.cost_analysis()["flops"] for one in lowered)  # pyright: ignore[reportOptionalSubscript]
    return more - few

  encoder = batch * len(learners) * (flops(slopes) + (flops(embed) if config.microbatches > 1 else 0))
  width = jax.eval_shape(embed, *network, images(2)).shape[1]
  parameters = sum(leaf.size for leaf in jax.tree.leaves(learner.params))
  chosen = selects(config.selection)
  itemsize = jnp.dtype(config.bank.dtype).itemsize
  ring = shards > 1 and per_device >= RING_IMAGES
  columns = 2 * per_device if ring else 2 * batch
  return {
      "devices": devices, "batch_size": batch, "examples": sizes.examples, "parameters": parameters,
      "bytes_parameters": held("params"), "bytes_optimizer": held("opt_state"),
      "bytes_other_state": held("batch_stats") + held("average") + held("memory"),
      "bytes_gradients": held("params") // len(learners), "bytes_activations": kept,
      # Two views in float32, and the pixels that they are made of.
      "bytes_views": 2 * per_device * math.prod(image) * 4 + (1 if resident else 2) * per_device * math.prod(image),
      # Both views' embeddings with their gradients; what they meet; a tile of similarities and of weights.
      "bytes_loss": 4 * (4 * per_device * width + 2 * columns * width
                         + 2 * min(2 * per_device, TILE_ROWS_DEFAULT) * min(columns, TILE_ROWS_DEFAULT)),
      "bytes_bank": -(-sizes.examples // shards) * width * itemsize if chosen else 0,
      "bytes_bank_whole": sizes.examples * width * itemsize if chosen else 0,
      "bytes_data": (sizes.examples * math.prod(image) if resident else 0) + 4 * sizes.examples,
      "flops_encoder": encoder,
      # Products of 2B x 2B rows of `width`: similarities, once more in the backward pass, and its two products.
      "flops_loss": len(learners) * 4 * 2 * (2 * batch)**2 * width,
      # What each device sends for the gradient's sum and for the ring of embeddings.
      "bytes_sent": 2 * 4 * parameters * len(learners) * (shards - 1) // shards
                    + (3 * 4 * 2 * batch * width * (shards - 1) // shards),
  }


def pace(found: Mapping[str, Any], chip: str, utilization: float) -> dict[str, Any]:
  """Seconds of a step on chips of a kind, and the images a second that the input must then deliver."""
  if chip in CHIPS:
    peak, memory = CHIPS[chip]
  else:
    try:
      peak, memory = float(chip), None
    except ValueError:
      raise ConfigError(f"--chip must be one of {', '.join(CHIPS)} or a number of TFLOP/s, got {chip!r}") from None
  if not 0 < utilization <= 1:
    raise ConfigError(f"--utilization must lie in (0, 1], got {utilization}")
  seconds = (found["flops_encoder"] + found["flops_loss"]) / (found["devices"] * peak * 1e12 * utilization)
  found = {"step_seconds": seconds, "images_per_second": found["batch_size"] / seconds,
           "epoch_seconds": found["examples"] / found["batch_size"] * seconds}
  return found if memory is None else {**found, "bytes_of_chip": memory * 10**9}


PARTS = ("parameters", "optimizer", "other_state", "gradients", "activations", "views", "loss", "bank", "data")


def table(found: Mapping[str, Any], config: Config) -> str:
  """The plan as text."""
  total = sum(found[f"bytes_{part}"] for part in PARTS)
  lines = [
      f"{found['parameters']:,} parameters; batches of {found['batch_size']:,} of {found['examples']:,} images on "
      f"{found['devices']} device{'s'[:found['devices'] > 1]}"
      + (f", encoded in {config.microbatches} pieces" if config.microbatches > 1 else ""),
      "", "Memory of a device, MiB"]
  lines += [f"  {part.replace('_', ' '):14}{found[f'bytes_{part}'] / 2**20:12,.1f}" for part in PARTS]
  chip = found.get("bytes_of_chip")
  of = f" of {chip / 2**20:,.0f}" if chip else ""
  lines.append(f"  {'together':14}{total / 2**20:12,.1f}{of}")
  if chip and total > chip:
    lines.append("  This does not fit. Less memory: --config.microbatches, --config.model.remat, --config.sharding, "
                 "more --devices.")
  if found["bytes_bank_whole"]:
    lines.append(f"  and {found['bytes_bank_whole'] / 2**20:,.1f} on the first device of each process while batches "
                 "are chosen")
  lines += ["", "A step", f"  {'encoder':14}{found['flops_encoder'] / 1e12:12,.3f} TFLOP",
            f"  {'loss':14}{found['flops_loss'] / 1e12:12,.3f} TFLOP",
            f"  {'sent':14}{found['bytes_sent'] / 2**20:12,.1f} MiB by each device"]
  if "step_seconds" in found:
    lines += [f"  {'time':14}{found['step_seconds']:12,.4f} s at {UTILIZATION.value:.0%} of the peak, if nothing waits",
              f"  {'input':14}{found['images_per_second']:12,.0f} images/s, each decoded once and cropped twice",
              f"  {'epoch':14}{found['epoch_seconds']:12,.1f} s"]
  return "\n".join(lines)


if __name__ == "__main__":
  command.run(main, default="imagenet1k")
