"""What `spectral_jax.plan` predicts beside what XLA compiles and what a step takes here.

  python benchmarks/plan.py [--out=docs/plan.json]

For each case one step is compiled on one or four CPU devices. The table has, of a device, predicted over compiled memory
(activations, views, gradients and loss against XLA's temporary buffers), predicted over real state, predicted over
counted arithmetic, and the time of a step over that of the first case of its config, beside the same ratio of the
prediction. Times are the least of several, the cases in turn; devices share the cores, so a step's arithmetic on all of
them counts.
"""

import argparse
import json
import pathlib
import sys
import time

import jax
import numpy as np

jax.config.update("jax_num_cpu_devices", 4)

ROOT = pathlib.Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from spectral_jax.config import load_config
from spectral_jax.data.dataset import Dataset, Split
from spectral_jax.mesh import make_mesh
from spectral_jax.plan import Sizes, plan
from spectral_jax.training.run import prepare

FULLY_SHARDED = ((".*", "fsdp"),)
# config, changes, devices
CASES = (
    ("digits", {"batch_size": 256}, 1), ("digits", {"batch_size": 1024}, 1),
    ("digits", {"batch_size": 1024, "microbatches": 4}, 1), ("digits", {"batch_size": 1024}, 4),
    ("digits", {"batch_size": 1024, "sharding": FULLY_SHARDED}, 4),
    ("cifar10", {"batch_size": 64, "model.encoder": "convnet"}, 1),
    ("cifar10", {"batch_size": 256, "model.encoder": "convnet", "microbatches": 4}, 1))
EXAMPLES = 1437
REPEATS = 5


def measured(name, changes, devices):
  """A compiled step with its arguments, what XLA says of it, and what was predicted."""
  config = load_config(name)
  config.update({"sharding": changes.get("sharding", ())})
  config.update_from_flattened_dict({
      **{key: value for key, value in changes.items() if key != "sharding"}, "optimizer.warmup_epochs": 0, "steps": 10,
      "diagnostics_every": 0})
  channels, side = (1, 8) if name == "digits" else (3, 32)
  random = np.random.default_rng(0)
  split = Split((np.arange(EXAMPLES) % 10).astype(np.int32), side,
                pixels=random.integers(0, 256, (EXAMPLES, side, side, channels), np.uint8))
  data = Dataset(name, tuple("0123456789"), split, split)
  run = prepare(config, data, make_mesh(devices=jax.devices()[:devices]))
  state = run.init()
  batch = next(iter(run.feed(run.plan.random_table(0)[:1], 0)))
  step = jax.jit(run.program.step).lower(state, batch, run.images, run.labels, run.hyper).compile()
  memory, cost = step.memory_analysis(), step.cost_analysis()
  predicted = plan(config, Sizes(EXAMPLES, 10, channels), devices)
  state_bytes = sum(predicted[f"bytes_{part}"] for part in ("parameters", "optimizer", "other_state"))
  real_bytes = sum(shard.data.nbytes for leaf in jax.tree.leaves(state.learners) for shard in leaf.addressable_shards
                   if shard.device == jax.devices()[0])
  temporary = sum(predicted[f"bytes_{part}"] for part in ("activations", "views", "gradients", "loss"))
  act = lambda: jax.block_until_ready(step(state, batch, run.images, run.labels, run.hyper))
  row = {
      "config": name, **changes, "devices": devices, "predicted_MiB": temporary / 2**20,
      "compiled_MiB": memory.temp_size_in_bytes / 2**20, "state_ratio": state_bytes / real_bytes,
      "predicted_GFLOP": (predicted["flops_encoder"] + predicted["flops_loss"]) / 1e9,
      "counted_GFLOP": cost["flops"] * devices / 1e9}
  print(row, flush=True)
  return act, row


def main():
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  parser.add_argument("--out", default=str(ROOT / "docs" / "plan.json"))
  options = parser.parse_args()
  steps, rows = zip(*(measured(*case) for case in CASES))
  times = [[] for _ in steps]
  for _ in range(REPEATS):
    for seconds, act in zip(times, steps):
      began = time.perf_counter()
      act()
      seconds.append(time.perf_counter() - began)
  first = {}
  for row, seconds in zip(rows, times):
    row["seconds"] = min(seconds)
    base = first.setdefault(row["config"], row)
    row["flops_ratio"] = row["predicted_GFLOP"] / row["counted_GFLOP"]
    row["memory_ratio"] = row["predicted_MiB"] / row["compiled_MiB"]
    row["time_over_first"] = row["seconds"] / base["seconds"]
    row["predicted_time_over_first"] = row["predicted_GFLOP"] / base["predicted_GFLOP"]
  pathlib.Path(options.out).write_text(json.dumps({
      "about": "python benchmarks/plan.py; CPU devices on 2 shared cores, the least of 5 steps each", "cases": rows},
      indent=2) + "\n")
  for row in rows:
    print({key: round(value, 3) if isinstance(value, float) else value for key, value in row.items()})


if __name__ == "__main__":
  main()
