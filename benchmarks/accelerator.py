"""All that is to be measured on an accelerator, in stages of at most nine minutes, most valuable first.

  python benchmarks/accelerator.py --out=DIR --data=cifar10.tar.xz [--wheels=DIR] [--stages=losses,step]
  python benchmarks/accelerator.py --out=DIR --rehearse        # every stage at toy size on CPU, seconds

Each stage runs in a process of its own and leaves DIR/STAGE.json and DIR/STAGE.md, written after every figure; the same
command again goes on where a stage was stopped, by its nine minutes or by anything else.

  losses   NT-Xent and InfoNCE to n = 262,144: dense, and tiles of several sizes, float32 and bfloat16, beside the rate
           of matrix products that was measured just before
  blocks   the kernels for GPUs with blocks of several sizes: what spectral_jax/losses/_kernel.py takes
  flags    the same call and a training step under some of XLA's flags
  step     training steps of ResNet-18 at 32 and ResNet-50 at 224 pixels in bfloat16: images a second, the parts' times,
           a profile, and a plain compiled SimCLR step in PyTorch where that is installed
  cifar    CIFAR-10, ResNet-18: accuracies against training time
  rules    rules of batch selection, several seeds
  coupled  contrastive and supervised learners under shared randomness, three temperatures

It needs jax, flax, optax and numpy, and besides them what

  pip download --no-deps --dest=WHEELS absl-py chex dm-pix etils ml_collections pillow toolz tqdm

brings: `--wheels` names that folder, which is installed under DIR without a network. `--data` is a tar of
train/CLASS/*.jpg and test/CLASS/*.jpg, or an npz with train_images, train_labels, test_images and test_labels.
"""

import argparse
import functools
import io
import itertools
import json
import os
import pathlib
import statistics
import subprocess
import sys
import tarfile
import time

ROOT = pathlib.Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

STAGE_SECONDS = 540
STAGES = ("losses", "blocks", "flags", "step", "cifar", "rules", "coupled")
FLAGS = {
    "default": "",
    "no Triton products": "--xla_gpu_enable_triton_gemm=false",
    "no command buffers": "--xla_gpu_enable_command_buffer=",
    "latency hiding": "--xla_gpu_enable_latency_hiding_scheduler=true",
    "exhaustive tiling": "--xla_gpu_exhaustive_tiling_search=true",
}
RULES = ("random", "greedy", "pool", "log_det", "hard", "cluster", "spectral")
SIZES = {
    False: dict(
        losses_n=(2048, 4096, 8192, 16384, 32768, 65536, 131072, 262144), dense_most=16384, tiled_most=65536,
        sweep_n=32768,
        blocks_n=65536, blocks=((128, 64, 8, 3), (64, 64, 4, 3), (128, 64, 4, 2), (64, 128, 4, 3), (64, 32, 4, 3),
                                (128, 32, 8, 2), (64, 32, 4, 2), (64, 64, 4, 2)),
        tiles=(2048, 4096, 8192, 16384), d=128, square=8192, repeats=5, flags_n=65536,
        steps=(("resnet18", "cifar", 32, 512), ("resnet50", "imagenet", 224, 256)), step_count=20,
        encoder="resnet18", side=32, batch=512, epochs=100, look=25, rule_epochs=30, coupled_epochs=60,
        seeds=(0, 1, 2), rules=RULES, temperatures=(0.1, 0.2, 0.5), dtype="bfloat16"),
    True: dict(
        losses_n=(64,), dense_most=64, tiled_most=64, sweep_n=64, blocks_n=64, blocks=((16, 32, 4, 2),),
        tiles=(16, 32), d=16, square=64, repeats=1, flags_n=64,
        steps=(("convnet", "cifar", 8, 16),), step_count=1, encoder="convnet", side=8, batch=16, epochs=2, look=1,
        rule_epochs=3, coupled_epochs=1, seeds=(0,), rules=("random", "greedy"), temperatures=(0.2,), dtype="float32"),
}


class OutOfTime(Exception):
  """The stage's minutes are over; what it has is written."""


class Stage:
  """The figures of one stage, kept in a file; `cell` makes one that is not there yet, if there is time for it."""

  def __init__(self, name, out, seconds):
    self.path, self.markdown = out / f"{name}.json", out / f"{name}.md"
    self.deadline = time.monotonic() + seconds
    self.cells = json.loads(self.path.read_text())["cells"] if self.path.exists() else {}
    self.longest = 0.0

  def cell(self, key, make, resumes=False):
    """`make()`, a dictionary of figures, unless it was made before. An error of the device is kept as the figure.

    One that `resumes` where it was stopped is begun whatever time is left.
    """
    if key in self.cells:
      return self.cells[key]
    self.check(0.0 if resumes else self.longest)
    import jax
    started = time.monotonic()
    try:
      figures = make()
    except jax.errors.JaxRuntimeError as error:  # such as no memory left, which is an answer too
      figures = {"error": str(error).splitlines()[0][:200]}
    self.longest = max(self.longest, time.monotonic() - started)
    self.cells[key] = figures
    self.save()
    print(f"{key}: {figures}", flush=True)
    return figures

  def is_over(self):
    return time.monotonic() > self.deadline

  def check(self, needed):
    if time.monotonic() + needed > self.deadline:
      raise OutOfTime

  def save(self):
    from benchmarks import report
    content = {"machine": report.machine(), "cells": self.cells}
    temporary = self.path.with_suffix(".tmp")
    temporary.write_text(json.dumps(content, indent=1))
    temporary.replace(self.path)
    rows = [{"what": key} | figures for key, figures in self.cells.items() if "curve" not in figures]
    curves = [{"what": key} | row for key, figures in self.cells.items() for row in figures.get("curve", ())]
    tables = [report.table(part) for part in (rows, curves) if part]
    self.markdown.write_text("\n\n".join([content["machine"], *tables]) + "\n")


def seconds_of(call, repeats):
  """Median seconds of a call that returns arrays, after one that compiles; three calls where they take seconds."""
  import jax
  jax.block_until_ready(call())
  times = []
  while len(times) < repeats and (len(times) < 3 or sum(times) < 3.0):
    started = time.perf_counter()
    jax.block_until_ready(call())
    times.append(time.perf_counter() - started)
  return statistics.median(times)


def product_rate(dtype, rows, inner, repeats):
  """Operations a second of `(rows, inner) @ (inner, rows)` and back, in a chain so that launches do not count.

  At the precision of the losses: float32 is float32, not the shorter mantissas that matrix units take by default.
  """
  import jax
  import jax.numpy as jnp
  length = 8
  x, y = jnp.ones((rows, inner), dtype), jnp.full((inner, rows), 1 / inner, dtype)
  times = functools.partial(jnp.matmul, precision="highest")
  there_and_back = lambda x, y: times(times(x, y), y.T) * (inner / rows)
  chain = jax.jit(lambda x, y: jax.lax.fori_loop(0, length, lambda _, x: there_and_back(x, y), x))
  return length * 4 * rows * rows * inner / seconds_of(lambda: chain(x, y), repeats)


def loss_call(loss, n, d, **keywords):
  """A jitted value and gradient and its operands: random unit rows."""
  import jax
  u, v = jax.random.normal(jax.random.key(0), (2, n, d))
  call = jax.jit(jax.value_and_grad(functools.partial(loss, **keywords), (0, 1)))
  return lambda: call(u, v)


def losses_stage(stage, sizes, options):
  import jax
  import jax.numpy as jnp

  from spectral_jax import losses
  square, repeats, d = sizes["square"], sizes["repeats"], sizes["d"]
  rates = {}
  for name in ("float32", "bfloat16"):
    rates[name] = stage.cell(f"matrix product, {name}", lambda: {
        "TFLOP/s": product_rate(name, square, square, repeats) / 1e12,
        f"TFLOP/s, inner {d}": product_rate(name, square, d, repeats) / 1e12})
  # Operations of value and gradient in tiles: spectral_jax/losses/_engine.py. The dense form and the
  # kernels take more: 6 (2 n)^2 d for `nt_xent`, and the kernels 10 n^2 d for `info_nce`.
  operations = {"nt_xent": lambda n: 4 * (2 * n)**2 * d, "info_nce": lambda n: 6 * n**2 * d}

  def figures(loss, name, n, dtype, tile):
    keywords = {"temperature": 0.1, "tile_size": tile, "matmul_dtype": jnp.bfloat16 if dtype == "bfloat16" else None}
    seconds = seconds_of(loss_call(loss, n, d, **keywords), repeats)
    rate = operations[name](n) / seconds / 1e12
    return {"milliseconds": 1e3 * seconds, "TFLOP/s": rate, "of the product's rate": rate / rates[dtype]["TFLOP/s"]}

  def measured(name, loss, n, dtype, tile, form):
    return stage.cell(f"{name}, n={n}, {dtype}, {form}", lambda: figures(loss, name, n, dtype, tile))

  for dtype, (name, loss) in itertools.product(
      ("bfloat16", "float32"), (("nt_xent", losses.nt_xent), ("info_nce", losses.info_nce))):
    measure = functools.partial(measured, name, loss)
    if jax.default_backend() == "gpu" and dtype == "bfloat16":
      for n in sizes["losses_n"]:
        measure(n, dtype, None, "kernels")
    swept = {tile: measure(sizes["sweep_n"], dtype, tile, f"tiles of {tile}") for tile in sizes["tiles"]}
    tile = min(swept, key=lambda tile: swept[tile].get("milliseconds", float("inf")))
    for n in sizes["losses_n"]:
      if n != sizes["sweep_n"] and tile <= n <= sizes["tiled_most"]:
        measure(n, dtype, tile, f"tiles of {tile}")
      if n <= sizes["dense_most"] and dtype == "float32":
        measure(n, dtype, 2 * n, "dense")
  for cell in [key for key in stage.cells if "error" in stage.cells[key]]:
    print(f"{cell}: failed on {jax.devices()[0].device_kind}", file=sys.stderr)


def blocks_stage(stage, sizes, options):
  """The value and its gradient apart, for the 2 n rows of NT-Xent; interpreted in a rehearsal."""
  import jax
  import jax.numpy as jnp

  from spectral_jax.losses import _kernel
  from spectral_jax.losses._pairs import Plan, Result, make_rows
  from spectral_jax.losses._statistics import LogSumExp
  from spectral_jax.losses._tiles import empty_grad, empty_tally, split
  n, d = sizes["blocks_n"], sizes["d"]
  z = jax.random.normal(jax.random.key(0), (n, d))
  z *= (10 / jnp.sum(z * z, axis=1, keepdims=True))**0.5
  rows = split(make_rows(z, jnp.arange(n) % (n // 2), jnp.ones(n, bool)), n)
  result = Result(*jnp.stack([jnp.full_like(rows.norms, 11.0), jnp.ones_like(rows.norms)]))

  def gather(plan, rows):
    empty = empty_tally(plan, rows)
    return _kernel.gather(plan, rows, rows, empty, empty, triangle=True)[0]

  def scatter(plan, rows):
    empty = empty_grad(rows)
    return _kernel.scatter(plan, rows, rows, result, result, empty, empty, triangle=True)[0]

  def figures(kernel, operations, plan):
    call = jax.jit(functools.partial(kernel, plan))
    seconds = seconds_of(lambda: call(rows), sizes["repeats"])
    return {"milliseconds": 1e3 * seconds, "TFLOP/s": operations * n * n * d / seconds / 1e12}

  plan = Plan(statistic=LogSumExp(), matmul_dtype="bfloat16", kernel="interpret" if options.rehearse else "triton")
  for name, kernel, operations in (("gather", gather, 2), ("scatter", scatter, 4)):
    for blocks in sizes["blocks"]:
      _kernel.BLOCKS[name] = _kernel.Blocks(*blocks)
      shape = "{} x {}, {} warps, {} stages".format(*blocks)
      stage.cell(f"{name}, {shape}", lambda: figures(kernel, operations, plan))


def flags_stage(stage, sizes, options):
  """Each set of flags is a process of its own: XLA reads them once."""
  for name, flags in list(FLAGS.items())[:1 if options.rehearse else None]:
    def figures():
      environment = os.environ | {"XLA_FLAGS": f"{os.environ.get('XLA_FLAGS', '')} {flags}".strip()}
      command = [sys.executable, __file__, f"--out={options.out}", "--one-under-flags"]
      command += ["--rehearse"] if options.rehearse else []
      done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False,
                            timeout=max(1.0, stage.deadline - time.monotonic()))
      if done.returncode:
        return {"error": (done.stderr.strip().splitlines() or ["no message"])[-1][:200]}
      return json.loads(done.stdout.splitlines()[-1])
    try:
      stage.cell(name, figures)
    except subprocess.TimeoutExpired:
      raise OutOfTime from None


def one_under_flags(sizes):
  """Prints what the flags of this process make of a loss and a step."""
  import jax.numpy as jnp

  from spectral_jax import losses
  half = None if sizes["dtype"] == "float32" else jnp.bfloat16
  loss = loss_call(losses.nt_xent, sizes["flags_n"], sizes["d"], temperature=0.1, matmul_dtype=half)
  encoder, stem, side, batch = sizes["steps"][0]
  step, _ = step_of(sizes, encoder, stem, side, batch)
  print(json.dumps({"loss, milliseconds": 1e3 * seconds_of(loss, sizes["repeats"]),
                    "step, milliseconds": 1e3 * seconds_of(step, sizes["repeats"])}))


def config_of(sizes, encoder, stem, side, batch, epochs=100, **changes):
  """`configs/cifar10.py` with another encoder, size, batch and length, a tenth of it the warm-up."""
  from spectral_jax.config import load_config
  config = load_config("cifar10")
  config.update_from_flattened_dict({
      "data.image_size": side, "batch_size": batch, "epochs": epochs, "optimizer.warmup_epochs": epochs // 10,
      "model.encoder": encoder, "model.stem": stem, "model.dtype": sizes["dtype"], "diagnostics_every": 0,
      "eval.shots": 1, **changes})
  return config


def random_images(count, side):
  import numpy as np

  from spectral_jax.data import Dataset, Split
  random = np.random.default_rng(0)
  images = random.integers(0, 256, (count, side, side, 3)).astype(np.uint8)
  split = Split(np.arange(count, dtype=np.int32) % 10, side, images)
  return Dataset("random", tuple("0123456789"), split, split)


def step_of(sizes, encoder, stem, side, batch):
  """A call that makes one whole training step of random images, and the run."""
  import jax

  from spectral_jax.mesh import make_mesh
  from spectral_jax.training.run import prepare
  run = prepare(config_of(sizes, encoder, stem, side, batch), random_images(2 * batch, side),
                make_mesh(devices=jax.devices()[:1]))
  indices = next(iter(run.feed(run.plan.random_table(0)[:1], 0)))
  state = [run.init()]

  def step():
    state[0], metrics = run.step(state[0], indices)
    return metrics

  return step, (run, indices, state)


def step_stage(stage, sizes, options):
  import jax
  import jax.numpy as jnp

  from spectral_jax import losses
  from spectral_jax.models import build_model
  count = sizes["step_count"]

  def several(step):
    def call():
      for _ in range(count):
        made = step()
      return made
    return call

  def figures(encoder, stem, side, batch):
    step, (run, indices, state) = step_of(sizes, encoder, stem, side, batch)
    whole = seconds_of(several(step), 3) / count
    with jax.profiler.trace(str(options.out / "trace" / encoder)):
      jax.block_until_ready(step())
    model = build_model(run.config.model)
    learner = state[0].learners["main"]
    x = jnp.zeros((2 * batch, side, side, 3))

    def encoded(params, x):
      (_, z), changed = model.apply({"params": params, "batch_stats": learner.batch_stats}, x, train=True,
                                    mutable=["batch_stats"])
      return jnp.mean(z), changed

    lowered = jax.jit(jax.value_and_grad(encoded, has_aux=True)).lower(learner.params["model"], x)
    bare = lowered.compile()
    encoder_seconds = seconds_of(several(lambda: bare(learner.params["model"], x)), 3) / count
    views = seconds_of(several(lambda: run.views(state[0], indices)), 3) / count
    loss_alone = loss_call(losses.nt_xent, batch, run.config.model.projector_dim, temperature=0.5)
    loss = seconds_of(several(loss_alone), 3) / count
    # Before XLA hands the convolutions to libraries, whose operations it does not count.
    flops = (lowered.cost_analysis() or {}).get("flops", 0.0)
    return {"images/s": batch / whole, "of the bare encoder": encoder_seconds / whole, "step, ms": 1e3 * whole,
            "encoder, ms": 1e3 * encoder_seconds, "views, ms": 1e3 * views, "loss, ms": 1e3 * loss,
            "encoder TFLOP/s": flops / encoder_seconds / 1e12}

  def of_torch(encoder, stem, side, batch):
    import torch

    from benchmarks import torch_simclr
    if encoder not in torch_simclr.BLOCKS:
      return {"error": f"no {encoder} in PyTorch"}
    device = "cuda" if torch.cuda.is_available() else "cpu"
    step = torch_simclr.make_step(
        encoder, stem, 2048, 128, batch=batch, side=side, device=device, half=True, compiled=True)
    return {"images/s": torch_simclr.images_per_second(step, batch, count)}

  for shape in sizes["steps"]:
    stage.cell(f"{shape[0]} at {shape[2]}, batch {shape[3]}", lambda: figures(*shape))
    try:
      import torch  # noqa: F401
    except ImportError:
      continue
    stage.cell(f"{shape[0]} at {shape[2]}, batch {shape[3]}, PyTorch compiled", lambda: of_torch(*shape))


def images_of(path, out):
  """CIFAR-10 as a `Dataset`, from an npz, or from a tar of images that is unpacked once."""
  import numpy as np

  from spectral_jax.data import Dataset, Split
  kept = out / "images.npz"
  if path.suffix == ".npz" or kept.exists():
    arrays = np.load(path if path.suffix == ".npz" else kept)
  else:
    arrays = unpacked(path)
    np.savez(kept, **arrays)
  parts = [(arrays[f"{part}_images"], arrays[f"{part}_labels"].astype(np.int32)) for part in ("train", "test")]
  classes = tuple(map(str, range(int(parts[0][1].max()) + 1)))
  return Dataset("cifar10", classes, *(Split(labels, images.shape[1], images) for images, labels in parts))


def unpacked(path):
  """The arrays of an npz from a tar of PART/CLASS/IMAGE files."""
  import numpy as np
  from PIL import Image
  found = {"train": [], "test": []}
  with tarfile.open(path) as tar:
    for member in tar:
      parts = pathlib.PurePosixPath(member.name).parts
      if member.isfile() and len(parts) >= 3 and parts[-3] in found:
        pixels = Image.open(io.BytesIO(tar.extractfile(member).read())).convert("RGB")
        found[parts[-3]].append((parts[-2], parts[-1], np.asarray(pixels)))
  classes = {name: i for i, name in enumerate(sorted({name for name, _, _ in found["train"]}))}
  if not classes:
    raise ValueError(f"--data={path} has no train/CLASS/IMAGE in it")
  return {f"{part}_{what}": values for part, files in found.items() for what, values in (
      ("images", np.stack([pixels for *_, pixels in sorted(files, key=lambda f: f[:2])])),
      ("labels", np.array([classes[name] for name, *_ in sorted(files, key=lambda f: f[:2])], np.int32)))}


class Silent:
  """What a `Planner` asks of a log."""

  def __init__(self):
    self.started = time.perf_counter()

  def write(self, step, values):
    pass

  def flush(self):
    pass

  def seconds(self):
    return time.perf_counter() - self.started


def trained(stage, key, config, dataset, look, scores, out):
  """A cell of one training run: `scores(run, state)` every `look` epochs against seconds of training.

  A run that is stopped by its stage's time leaves its state in `out` and goes on there.
  """
  import jax
  import numpy as np

  from spectral_jax.mesh import make_mesh, place
  from spectral_jax.training.batches.planner import Planner, first_tables
  from spectral_jax.training.batches.tables import of_stored, stored
  from spectral_jax.training.run import prepare
  kept = out / f"{key.replace(' ', '_')}.npz"

  def flat(state, tables):
    return jax.tree.flatten({"state": state._asdict(), "tables": stored(tables)})

  def save(state, tables, progress):
    # As bytes: NumPy's files know no bfloat16.
    arrays = {f"a{i}": np.asarray(a).reshape(-1).view(np.uint8) for i, a in enumerate(flat(state, tables)[0])}
    np.savez(kept.with_suffix(".tmp.npz"), progress=json.dumps(progress), **arrays)
    kept.with_suffix(".tmp.npz").replace(kept)

  def restored(state, tables):
    arrays, structure = flat(state, tables)
    with np.load(kept) as file:
      parts = [file[f"a{i}"].view(np.asarray(a).dtype).reshape(np.shape(a)) for i, a in enumerate(arrays)]
      progress = json.loads(str(file["progress"]))
    parts = [place(part, a.sharding) if isinstance(a, jax.Array) else part for part, a in zip(parts, arrays)]
    content = jax.tree.unflatten(structure, parts)
    return type(state)(**content["state"]), of_stored(content["tables"]), progress

  def figures():
    run = prepare(config, dataset, make_mesh(devices=jax.devices()[:1]))
    state, tables = run.init(), first_tables(run.plan, run.bank)
    curve, trained_seconds, epoch = [], 0.0, 0
    if kept.exists():
      state, tables, (curve, trained_seconds, epoch) = restored(state, tables)
    per_epoch, total = run.steps_per_epoch, config.epochs
    with Planner(run.plan, run.bank, tables, Silent()) as planner:
      while epoch < total:
        if stage.is_over():
          save(state, planner.tables(epoch * per_epoch), [curve, trained_seconds, epoch])
          raise OutOfTime
        started = time.perf_counter()
        for batch in run.feed(planner.batches_of(epoch, epoch * per_epoch, state), epoch * per_epoch):
          state, metrics = run.step(state, batch)
        jax.block_until_ready(metrics)
        trained_seconds += time.perf_counter() - started
        epoch += 1
        if epoch % look == 0 or epoch == total:
          curve.append({"epoch": epoch, "training seconds": trained_seconds} | scores(run, state))
          print(f"{key}: {curve[-1]}", flush=True)
    kept.unlink(missing_ok=True)
    return {"images/s": total * per_epoch * config.batch_size / trained_seconds, **curve[-1], "curve": curve}

  return stage.cell(key, figures, resumes=True)


def features_of(run, state):
  """`{learner: {part: (features, projections)}}` of both splits, and their labels."""
  import jax.numpy as jnp
  import numpy as np

  from spectral_jax.training.state import variables
  splits = {"train": run.dataset.train, "test": run.dataset.test}
  found = {name: {part: run.features(variables(learner), split, np.arange(split.size))
                  for part, split in splits.items()} for name, learner in state.learners.items()}
  return found, {part: jnp.asarray(split.labels) for part, split in splits.items()}


def accuracies(run, state):
  """Of frozen features: nearest neighbors and the linear probe."""
  from spectral_jax import spectrum
  from spectral_jax.evaluation import linear_accuracy
  from spectral_jax.metrics import knn_accuracy
  found, labels = features_of(run, state)
  (train, _), (test, projections) = found["main"]["train"], found["main"]["test"]
  rows = train, labels["train"], test, labels["test"]
  return {"kNN": float(knn_accuracy(*rows, k=run.config.eval.knn_k)),
          "linear": float(linear_accuracy(*rows, num_classes=len(run.dataset.class_names))),
          "effective rank": float(spectrum.effective_rank(projections))}


def likeness(run, state):
  """How alike the learners are, and their nearest-neighbor accuracies."""
  from spectral_jax.evaluation import alignment
  from spectral_jax.metrics import knn_accuracy
  found, labels = features_of(run, state)
  accuracy = {f"{name}/kNN": float(knn_accuracy(
      parts["train"][0], labels["train"], parts["test"][0], labels["test"], k=run.config.eval.knn_k))
      for name, parts in found.items()}
  params = {name: learner.params["model"] for name, learner in state.learners.items()}
  return accuracy | {name: float(value) for name, value in alignment(found, labels, params).items()}


def cifar_stage(stage, sizes, options):
  dataset = dataset_of(sizes, options)
  config = config_of(sizes, sizes["encoder"], "cifar", sizes["side"], sizes["batch"], epochs=sizes["epochs"])
  key = f"{sizes['encoder']}, {sizes['epochs']} epochs"
  trained(stage, key, config, dataset, sizes["look"], accuracies, options.out)


def rules_stage(stage, sizes, options):
  dataset = dataset_of(sizes, options)
  for seed in sizes["seeds"]:
    for rule in sizes["rules"]:
      config = config_of(sizes, sizes["encoder"], "cifar", sizes["side"], sizes["batch"], epochs=sizes["rule_epochs"],
                         seed=seed, **{"selection.rule": rule, "bank.refresh_epochs": 1})
      trained(stage, f"{rule}, seed {seed}", config, dataset, sizes["rule_epochs"], accuracies, options.out)


def coupled_stage(stage, sizes, options):
  from spectral_jax.config import load_config
  dataset = dataset_of(sizes, options)
  learners = load_config("coupled_cifar10").learners
  for temperature in sizes["temperatures"]:
    config = config_of(sizes, sizes["encoder"], "cifar", sizes["side"], sizes["batch"], epochs=sizes["coupled_epochs"],
                       main_learner="cl", **{"loss.temperature": temperature})
    with config.unlocked():
      config.learners = {name: learners[name] for name in ("cl", "nscl")}
    trained(stage, f"temperature {temperature}", config, dataset, sizes["look"], likeness, options.out)


def dataset_of(sizes, options):
  return random_images(4 * sizes["batch"], sizes["side"]) if options.rehearse else images_of(options.data, options.out)


def install(wheels, out):
  """Installs a folder of wheels beside the results, once, and lets this process and its children import them."""
  site = out / "site"
  if not site.exists():
    files = sorted(map(str, wheels.glob("*.whl")))
    if not files:
      raise SystemExit(f"Error: --wheels={wheels} holds no .whl file")
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-index", "--no-deps", f"--target={site}"]
    subprocess.run([*pip, *files], check=True)
  return str(site)


def run_stage(name, options):
  """Returns whether the stage is finished."""
  stage = Stage(name, options.out, options.seconds)
  try:
    globals()[f"{name}_stage"](stage, SIZES[options.rehearse], options)
  except OutOfTime:
    print(f"{name}: not finished in {options.seconds} s; the same command goes on", flush=True)
    return False
  return True


def parsed(argv):
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  parser.add_argument("--out", type=pathlib.Path, required=True)
  parser.add_argument("--data", type=pathlib.Path, help="CIFAR-10, a tar of images or an npz")
  parser.add_argument("--wheels", type=pathlib.Path, help="a folder of wheels to install without a network")
  parser.add_argument("--stages", default=",".join(STAGES), help="some of the stages, in this order")
  parser.add_argument("--seconds", type=float, default=STAGE_SECONDS, help="of each stage")
  parser.add_argument("--rehearse", action="store_true", help="toy sizes, in this process, on random images")
  parser.add_argument("--here", action="store_true", help="run the stages in this process")
  parser.add_argument("--one-under-flags", action="store_true", help=argparse.SUPPRESS)
  options = parser.parse_args(argv)
  options.stages = options.stages.split(",")
  unknown = set(options.stages) - set(STAGES)
  if unknown:
    parser.error(f"--stages names {sorted(unknown)}; there are {', '.join(STAGES)}")
  if not options.rehearse and options.data is None and {"cifar", "rules", "coupled"} & set(options.stages):
    parser.error("--data is needed for the stages cifar, rules and coupled: the tar or npz of CIFAR-10")
  return options


def main(argv=None):
  options = parsed(argv)
  options.out.mkdir(parents=True, exist_ok=True)
  site = [install(options.wheels, options.out)] if options.wheels else []
  sys.path[:0] = site
  if options.one_under_flags:
    one_under_flags(SIZES[options.rehearse])
    return 0
  if options.here or options.rehearse:
    done = [run_stage(name, options) for name in options.stages]  # all of them, whether the first fails or not
    return 0 if all(done) else 75
  environment = os.environ | {"PYTHONPATH": os.pathsep.join([*site, os.environ.get("PYTHONPATH", "")]),
                              "JAX_COMPILATION_CACHE_DIR": str(options.out / "compiled"),
                              "XLA_PYTHON_CLIENT_PREALLOCATE": "false"}
  codes = []
  for name in options.stages:
    command = [sys.executable, __file__, f"--out={options.out}", f"--stages={name}", "--here"]
    command += [f"--seconds={options.seconds}"] + ([f"--data={options.data}"] if options.data else [])
    try:
      codes.append(subprocess.run(command, env=environment, check=False, timeout=options.seconds + 30).returncode)
    except subprocess.TimeoutExpired:
      print(f"{name}: stopped; the same command goes on with the cells that are left", flush=True)
      codes.append(75)
  return max(codes)


if __name__ == "__main__":
  sys.exit(main())
