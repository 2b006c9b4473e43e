"""Loss and gradient of the contrastive losses: time, memory and error, against the dense form and other libraries.

Run from the repository's root, with the `bench` extra:

    python benchmarks/losses.py            # the table of docs/performance.md, some minutes on two cores
    python benchmarks/losses.py --quick    # smaller sizes, nothing written

Every figure is a median of calls taken in turn, so that a noisy machine is noisy for all.
"""

import argparse
import functools
import itertools
import os
import pathlib
import random
import statistics
import sys
import time

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent))

import jax

jax.config.update("jax_num_cpu_devices", 8)

import jax.numpy as jnp
import numpy as np
import optax

from benchmarks import report
from spectral_jax import losses
from spectral_jax.mesh import make_mesh, over_data

TEMPERATURE = 0.5


def views(n, d, dtype=jnp.float32, seed=0):
  u, noise = jax.random.normal(jax.random.key(seed), (2, n, d))
  return u.astype(dtype), (u + noise).astype(dtype)


def gradient(loss, **keywords):
  return jax.jit(jax.value_and_grad(functools.partial(loss, **keywords), (0, 1)))


def plain_dense(u, v):
  """NT-Xent as one writes it first: one 2n x 2n matrix and autodiff."""
  z = jnp.concatenate([u, v])
  z = z / jnp.linalg.norm(z, axis=1, keepdims=True)
  s = z @ z.T / TEMPERATURE
  n = u.shape[0]
  s = jnp.where(jnp.eye(2 * n, dtype=bool), -jnp.inf, s)
  positive = jnp.concatenate([jnp.diagonal(s, n), jnp.diagonal(s, -n)])
  return jnp.mean(jax.nn.logsumexp(s, axis=1) - positive)


def calls(forms, *arguments):
  """Calls of jitted functions that wait for their result."""
  return {name: lambda f=f: jax.block_until_ready(f(*arguments)) for name, f in forms.items()}


def medians(functions, repeats):
  """Median seconds of each function, called in turn, in an order shuffled anew so that none always follows another."""
  turns = random.Random(0)
  for function in functions.values():
    function()
  times = {name: [] for name in functions}
  for _ in range(repeats):
    for name in turns.sample(list(functions), len(functions)):
      start = time.perf_counter()
      functions[name]()
      times[name].append(time.perf_counter() - start)
  return {name: statistics.median(t) for name, t in times.items()}


def temporaries(function, *arguments):
  return function.lower(*arguments).compile().memory_analysis().temp_size_in_bytes


def against_peers(n, d, repeats):
  """NT-Xent's value and gradient: this library, the dense forms, and other libraries."""
  u, v = views(n, d)
  ours = gradient(losses.nt_xent, temperature=TEMPERATURE)
  forms = {
      "spectral_jax": ours,
      "spectral_jax, dense form": gradient(losses.nt_xent, temperature=TEMPERATURE, tile_size=n),
      "plain dense, jitted": jax.jit(jax.value_and_grad(plain_dense, (0, 1))),
  }
  dense_peers, slow_peers = torch_peers(np.asarray(u), np.asarray(v))
  seconds = medians(calls(forms, u, v) | dense_peers, max(repeats, 10_000 // n))
  if n <= 256:  # n x n x d, or lists of all pairs: not in turn with the others, whose caches they empty
    both, labels = jnp.concatenate([u, v]), jnp.tile(jnp.arange(n), 2)
    ntxent = functools.partial(optax.losses.ntxent, labels=labels, temperature=TEMPERATURE)
    optax_loss = jax.jit(jax.value_and_grad(lambda z: jnp.mean(ntxent(z))))
    slow_peers["optax.losses.ntxent"] = lambda: jax.block_until_ready(optax_loss(both))
    seconds |= medians(slow_peers, repeats)
  memory = {name: temporaries(f, u, v) for name, f in forms.items()}
  return [{"n": n, "d": d, "form": name, "milliseconds": 1e3 * s, "relative": s / seconds["spectral_jax"],
           "temporary_MiB": memory[name] / 2**20 if name in memory else None} for name, s in seconds.items()]


def torch_peers(u, v):
  """The dense form in PyTorch, and a library whose calls take far longer."""
  try:
    import torch
    from pytorch_metric_learning.losses import NTXentLoss
  except ImportError as error:
    print(f"without PyTorch peers: {error}; install the bench extra", file=sys.stderr)
    return {}, {}
  torch.set_num_threads(os.cpu_count())
  a, b = (torch.tensor(x, requires_grad=True) for x in (u, v))
  n = len(u)
  library = NTXentLoss(temperature=TEMPERATURE)
  labels = torch.arange(n).repeat(2)
  own_pairs = torch.eye(2 * n, dtype=torch.bool)
  target = torch.cat([torch.arange(n, 2 * n), torch.arange(n)])

  def dense():
    z = torch.nn.functional.normalize(torch.cat([a, b]), dim=1)
    s = (z @ z.T / TEMPERATURE).masked_fill(own_pairs, float("-inf"))
    torch.autograd.grad(torch.nn.functional.cross_entropy(s, target), (a, b))

  def metric_learning():
    torch.autograd.grad(library(torch.cat([a, b]), labels), (a, b))

  return {"PyTorch dense autograd": dense}, {"pytorch-metric-learning": metric_learning}


def small_sizes(sizes, d, rows_timed):
  """Time of the picked form relative to the dense ones, where batches are small; smaller ones are timed more often."""
  rows = []
  for n in sizes:
    u, v = views(n, d)
    for name, loss in (("nt_xent", losses.nt_xent), ("info_nce", losses.info_nce), ("dhel", losses.dhel)):
      picked, dense = gradient(loss, temperature=TEMPERATURE), gradient(loss, temperature=TEMPERATURE, tile_size=n)
      forms = {"picked": picked, "dense": dense}
      if name == "nt_xent":
        forms["plain"] = jax.jit(jax.value_and_grad(plain_dense, (0, 1)))
      seconds = medians(calls(forms, u, v), max(21, min(2001, rows_timed // n)))
      rows.append({"loss": name, "n": n, "milliseconds": 1e3 * seconds["picked"],
                   "dense form / picked": seconds["dense"] / seconds["picked"],
                   "plain dense / picked": seconds["plain"] / seconds["picked"] if "plain" in seconds else None})
  return rows


def memory(sizes, d):
  """Bytes of temporaries as n grows, from the compiled program."""
  rows = []
  for n in sizes:
    shape = jax.ShapeDtypeStruct((n, d), jnp.float32)
    tiled = temporaries(gradient(losses.nt_xent), shape, shape)
    dense = temporaries(gradient(losses.nt_xent, tile_size=n), shape, shape) if n <= 8192 else None
    rows.append({"n": n, "temporary_MiB": tiled / 2**20, "dense_form_MiB": dense and dense / 2**20,
                 "inputs_and_gradients_MiB": 4 * n * d * 4 / 2**20})
  return rows


def mesh_of(count):
  return make_mesh(devices=jax.devices()[:count])


def over_devices(n, d, devices):
  """Temporaries of one device, rows sharded over a ring of host devices."""
  u = jax.ShapeDtypeStruct((n, d), jnp.float32)
  return [{"devices": count, "n": n, "temporary_MiB_per_device":
           temporaries(gradient(losses.sharded(losses.nt_xent, mesh_of(count))), u, u) / 2**20} for count in devices]


def ring_or_compiler(sizes, d, devices, repeats):
  """`sharded` against plain jit on the same sharded rows, which the compiler partitions."""
  rows = []
  for count, n in itertools.product(devices, sizes):
    mesh = mesh_of(count)
    u, v = jax.device_put(views(n, d), over_data(mesh))
    forms = {"ring": gradient(losses.sharded(losses.nt_xent, mesh), temperature=TEMPERATURE),
             "compiler": gradient(losses.nt_xent, temperature=TEMPERATURE, tile_size=n)}
    seconds = medians(calls(forms, u, v), repeats)
    rows.append({"devices": count, "n": n} | {f"{name}_ms": 1e3 * s for name, s in seconds.items()} | {
        f"{name}_MiB_per_device": temporaries(f, u, v) / 2**20 for name, f in forms.items()})
  return rows


def bfloat16_error(n, d):
  """Error of value and gradient when the factors of matrix products are rounded to bfloat16."""
  u, v = views(n, d)
  rows = []
  for tau in (0.05, 0.1, 0.5):
    exact = gradient(losses.nt_xent, temperature=tau)(u, v)
    rounded = gradient(losses.nt_xent, temperature=tau, matmul_dtype=jnp.bfloat16)(u, v)
    norm = lambda pair: float(jnp.sqrt(sum(jnp.sum(g * g) for g in pair)))
    rows.append({"temperature": tau, "n": n, "value_error": abs(float(rounded[0] - exact[0])),
                 "gradient_relative_error": norm([a - b for a, b in zip(rounded[1], exact[1])]) / norm(exact[1])})
  return rows


def large(n, d):
  """One call at a size whose dense form would not fit."""
  u, v = views(n, d)
  function = gradient(losses.nt_xent, temperature=TEMPERATURE)
  compiled = function.lower(u, v).compile()
  analysis = compiled.memory_analysis()
  start = time.perf_counter()
  jax.block_until_ready(compiled(u, v))
  return [{"n": n, "d": d, "seconds": time.perf_counter() - start, "total_MiB": (
      analysis.temp_size_in_bytes + analysis.argument_size_in_bytes + analysis.output_size_in_bytes) / 2**20,
           "dense_matrix_MiB": (2 * n) ** 2 * 4 / 2**20}]


def main():
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  parser.add_argument("--quick", action="store_true", help="smaller sizes, nothing written")
  quick = parser.parse_args().quick
  big, repeats = (1024, 3) if quick else (4096, 5)
  tables = {
      "NT-Xent, value and gradient": [
          row for n in ((256, 1024) if quick else (256, 1024, 4096)) for row in against_peers(n, 128, repeats)],
      "Small batches": small_sizes((32, 256) if quick else (32, 64, 128, 256, 512, 1024, 2048), 128,
                                   5_000 if quick else 100_000),
      "Memory": memory((1024, big) if quick else (1024, 2048, 4096, 8192, 16384, 65536), 128),
      "Over host devices": over_devices(2 * big, 128, (1, 2, 4, 8)),
      "Ring, or the compiler's partition of the dense form": ring_or_compiler(
          (256,) if quick else (128, 256, 512, 1024, 2048), 128, (2, 4, 8), 3 * repeats),
      "bfloat16 products": bfloat16_error(1024, 128),
      "Large": [] if quick else large(65536, 128),
  }
  text = report.tables(tables)
  print(text)
  if not quick:
    report.write("losses", "python benchmarks/losses.py", text)


if __name__ == "__main__":
  main()
