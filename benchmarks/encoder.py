"""Convolutions and whole training steps on CPU: XLA's own convolution, the forms of this library, PyTorch.

Run from the repository's root; PyTorch is of the `bench` extra and left out where it is missing:

    python benchmarks/encoder.py            # the section of docs/performance.md, some minutes on two cores
    python benchmarks/encoder.py --quick    # smaller sizes, nothing written

All forms are timed in one process, in turn; figures are medians. Ratios of processor time, of all cores together, are
given beside those of the clock: they do not depend on what else the machine does.
"""

import argparse
import os
import pathlib
import statistics
import sys
import time

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent))

os.environ["JAX_PLATFORMS"] = "cpu"

import jax
import numpy as np

from benchmarks import report

try:
  import torch

  from benchmarks import torch_simclr
except ImportError:
  torch = None

from spectral_jax.config import load_config
from spectral_jax.data import Dataset, Split, open_dataset
from spectral_jax.mesh import make_mesh
from spectral_jax.models import convolution
from spectral_jax.training import program
from spectral_jax.training.run import prepare

# (images, side, channels in, channels out, stride): of ResNet-18 at 32 pixels, and of the digits' encoder.
SHAPES = [(64, 32, 3, 64, 1), (64, 32, 64, 64, 1), (64, 32, 64, 128, 2), (64, 16, 128, 128, 1), (64, 8, 256, 256, 1),
          (64, 4, 512, 512, 1), (512, 8, 32, 64, 2), (512, 4, 64, 128, 2)]


def medians(functions, repeats):
  """Median seconds of each function on the clock and of the processor, called in turn after one call that compiles."""
  times = {name: [] for name in functions}
  for function in functions.values():
    function()
  for _ in range(repeats):
    for name, function in functions.items():
      started, processor = time.perf_counter(), time.process_time()
      function()
      times[name].append((time.perf_counter() - started, time.process_time() - processor))
  return tuple({name: statistics.median(t[i] for t in pairs) for name, pairs in times.items()} for i in (0, 1))


def layer(shape, repeats):
  """GFLOP/s of value, input gradient and weight gradient of one 3x3 convolution."""
  n, side, c, f, stride = shape
  keys = jax.random.split(jax.random.key(0), 3)
  x, w = jax.random.normal(keys[0], (n, side, side, c)), jax.random.normal(keys[1], (3, 3, c, f))
  dy = jax.random.normal(keys[2], (n, side // stride, side // stride, f))
  settings = ((stride, stride), ((1, 1), (1, 1)))
  plain = lambda x, w: jax.lax.conv_general_dilated(x, w, *settings, dimension_numbers=convolution.NUMBERS)
  forms = {
      "value, XLA": lambda x, w, dy: plain(x, w),
      "value, ours": lambda x, w, dy: convolution.forward_on_cpu(x, w, *settings),
      "input gradient, XLA": lambda x, w, dy: jax.linear_transpose(lambda x: plain(x, w), x)(dy),
      "input gradient, ours": lambda x, w, dy: convolution.input_gradient_on_cpu(dy, x, w, *settings),
      "weight gradient, XLA": lambda x, w, dy: jax.linear_transpose(lambda w: plain(x, w), w)(dy),
      "weight gradient, ours": lambda x, w, dy: convolution.weight_gradient_on_cpu(x, dy, w, *settings)}
  jitted = {name: jax.jit(form) for name, form in forms.items()}
  calls = {name: lambda form=form: jax.block_until_ready(form(x, w, dy)) for name, form in jitted.items()}
  seconds, _ = medians(calls | torch_layer(shape), repeats)
  operations = 2 * dy.size * 9 * c
  return {"images": n, "side": side, "in": c, "out": f, "stride": stride} | {
      name: round(operations / t / 1e9) for name, t in seconds.items()}


def torch_layer(shape):
  """The same in PyTorch, channels last: value and each gradient."""
  if torch is None:
    return {}
  n, side, c, f, stride = shape
  last = torch.channels_last
  x, w = torch.randn(n, c, side, side).to(memory_format=last), torch.randn(f, c, 3, 3).to(memory_format=last)
  dy = torch.randn(n, f, side // stride, side // stride).to(memory_format=last)

  def gradient(mask):
    torch.ops.aten.convolution_backward(
        dy, x, w, None, [stride] * 2, [1, 1], [1, 1], False, [0, 0], 1, mask)

  return {"value, PyTorch": lambda: torch.nn.functional.conv2d(x, w, None, stride, 1),
          "input gradient, PyTorch": lambda: gradient([True, False, False]),
          "weight gradient, PyTorch": lambda: gradient([False, True, False])}


def random_images(count, side):
  """A data set of that many random images, in memory."""
  random = np.random.default_rng(0)
  split = Split(np.arange(count, dtype=np.int32) % 10, side,
                random.integers(0, 256, (count, side, side, 3)).astype(np.uint8))
  return Dataset("random", tuple("0123456789"), split, split)


def step_of(config, dataset, of_flax):
  """A call that makes one training step, compiled with `of_flax` as the convolution that Flax calls."""
  before, convolution._of_flax = convolution._of_flax, of_flax
  program._program.cache_clear()
  run = prepare(config, dataset, make_mesh(devices=jax.devices()[:1]))
  batch = next(iter(run.feed(run.plan.random_table(0)[:1], 0)))
  state = [run.init()]

  def call():
    state[0], metrics = run.step(state[0], batch)
    jax.block_until_ready((state[0], metrics))

  call()
  convolution._of_flax = before
  return call


def steps(name, config, dataset, repeats):
  """Images a second of whole steps: views, both passes and update."""
  ours = convolution._of_flax
  calls = {"XLA": step_of(config, dataset, None), "ours": step_of(config, dataset, ours)}
  if torch is not None and config.model.encoder == "resnet18":
    calls["PyTorch"] = torch_simclr.make_step(
        "resnet18", "cifar", config.model.projector_hidden, config.model.projector_dim, batch=config.batch_size,
        side=config.data.image_size, device="cpu", half=config.model.dtype == "bfloat16", compiled=False)
  seconds, processor = medians(calls, repeats)
  return {"step": name, "batch": config.batch_size} | {
      f"{form}, images/s": round(config.batch_size / t, 1) for form, t in seconds.items()} | {
      f"{form} / ours, {what}": of[form] / of["ours"] for form in calls if form != "ours"
      for what, of in (("clock", seconds), ("processor", processor))}


def main():
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  parser.add_argument("--quick", action="store_true", help="smaller sizes, nothing written")
  parser.add_argument("--repeats", type=int, default=7)
  parser.add_argument("--batch", type=int, default=64, help="of the ResNet-18 steps")
  parser.add_argument("--half", action="store_true", help="ResNet-18 in bfloat16 too")
  options = parser.parse_args()
  cifar = load_config("cifar10")
  cifar.batch_size = 16 if options.quick else options.batch
  cifar.eval.shots = cifar.eval.knn_k = 1  # of which none is looked at here
  half = cifar.copy_and_resolve_references()
  cifar.model.dtype = "float32"
  data, digits = random_images(cifar.batch_size, 32), load_config("digits")
  rows = [steps("digits, convnet, float32", digits, open_dataset(digits.data), 3 * options.repeats),
          steps("CIFAR-10, ResNet-18, float32", cifar, data, options.repeats)]
  if options.half:
    rows.append(steps("CIFAR-10, ResNet-18, bfloat16", half, data, options.repeats))
  print(report.table(rows), flush=True)
  layers = [layer((shape[0] // (8 if options.quick else 1), *shape[1:]), options.repeats) for shape in SHAPES]
  text = report.tables({"Whole training steps": rows, "3x3 convolutions, GFLOP/s of the direct sum": layers})
  print(text)
  if not options.quick:
    report.write("encoder", f"python benchmarks/encoder.py --batch={options.batch} --repeats={options.repeats}", text)


if __name__ == "__main__":
  main()
