"""Time and memory of exact CKA, in one pass over 50,000 rows: against the matrix products that it needs.

  python benchmarks/metrics.py [--rows=50000] [--width=2048] [--repeats=3] [--write]

CKA and the three products `X^T X`, `Y^T Y`, `X^T Y` in float32 take turns; the ratio is that of neighbors, its median is
told. Memory: the temporaries of the compiled program. `--write` puts the table into docs/performance.md and the figures
into docs/performance_metrics.json.
"""

import argparse
import json
import pathlib
import sys
import time

import jax
import jax.numpy as jnp
import numpy as np

ROOT = pathlib.Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "benchmarks")]

import report

from spectral_jax import metrics
from spectral_jax.metrics import cka

BATCH = 2048  # rows that the streaming form is given at once
MIB = 2**20


def inputs(rows, width):
  """Two related representations on the device; nothing of their making is left in memory."""
  random = np.random.default_rng(0)
  x, y = (np.empty((rows, width), np.float32) for _ in range(2))
  mix = random.standard_normal((width, width), np.float32) / width**0.5
  for start in range(0, rows, 1000):
    part = slice(start, start + 1000)
    random.standard_normal(out=x[part], dtype=np.float32)
    y[part] = x[part] @ mix
    y[part] += random.standard_normal(y[part].shape, np.float32)
  return jnp.asarray(x), jnp.asarray(y)


def forms(x, y):
  """`{name: (prepare, call)}`: `prepare` compiles, `call` computes."""
  shapes = [jax.ShapeDtypeStruct(z.shape, z.dtype) for z in (x, y)]
  exact = jax.lax.Precision.HIGHEST
  product = lambda a, b: jnp.sum(jnp.abs(jnp.matmul(a.T, b, precision=exact)))
  products = jax.jit(lambda x, y: (product(x, x), product(y, y), product(x, y))).lower(*shapes).compile()
  mask = jax.ShapeDtypeStruct((len(x),), bool)
  whole = cka._linear_cka.lower(*shapes, mask, unbiased=True, axis_name=None).compile()
  stream = metrics.streaming_cka(unbiased=True)

  def streamed():
    state = stream.init(x.shape[1], y.shape[1])
    for start in range(0, len(x), BATCH):
      state = stream.update(state, x[start:start + BATCH], y[start:start + BATCH])
      jax.block_until_ready(state)  # else batches queue up in memory, faster than they are multiplied
    return stream.finish(state)

  return {"products": lambda: products(x, y), "linear_cka": lambda: whole(x, y, jnp.ones(len(x), bool)),
          "streaming_cka": streamed}


def compile_stream(x, y):
  """Calls what the streaming form calls, on one batch and on the odd last one."""
  stream = metrics.streaming_cka(unbiased=True)
  for rows in {BATCH, len(x) % BATCH or BATCH}:
    state = stream.update(stream.init(x.shape[1], y.shape[1]), x[:rows], y[:rows])
    jax.block_until_ready(stream.finish(state))


def temporaries(rows, width):
  """MiB that the compiled `linear_cka` holds beside its inputs, by XLA's own account.

  The process's size says less: what the allocator kept from making the inputs is used again.
  """
  shape, mask = jax.ShapeDtypeStruct((rows, width), np.float32), jax.ShapeDtypeStruct((rows,), bool)
  program = cka._linear_cka.lower(shape, shape, mask, unbiased=True, axis_name=None).compile()
  return program.memory_analysis().temp_size_in_bytes / MIB


def times(rows, width, repeats):
  """Seconds of each form, in turns."""
  x, y = inputs(rows, width)
  calls = forms(x, y)
  compile_stream(x, y)
  found = {name: [] for name in calls}
  for _ in range(repeats):
    for name, call in calls.items():
      started = time.perf_counter()
      jax.block_until_ready(call())
      found[name].append(time.perf_counter() - started)
  return found


def rows_of(seconds, held):
  """Rows of the table."""
  results = []
  for name in ("linear_cka", "streaming_cka"):
    ratios = [own / products for own, products in zip(seconds[name], seconds["products"])]
    results.append({"form": name, "seconds": float(np.median(seconds[name])),
                    "seconds of the products": float(np.median(seconds["products"])),
                    "ratio, median": float(np.median(ratios)), "ratio, from": min(ratios), "to": max(ratios),
                    "temporaries, MiB": held if name == "linear_cka" else None})
  return results


def main():
  parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
  parser.add_argument("--rows", type=int, default=50_000)
  parser.add_argument("--width", type=int, default=2048)
  parser.add_argument("--repeats", type=int, default=3)
  parser.add_argument("--write", action="store_true", help="put the table into docs/performance.md")
  options = parser.parse_args()
  seconds = times(options.rows, options.width, options.repeats)
  results = rows_of(seconds, temporaries(options.rows, options.width))
  table = report.table(results)
  print(f"{report.machine()}\n\n{table}")
  if options.write:
    command = " ".join(["python benchmarks/metrics.py", *(w for w in sys.argv[1:] if w != "--write")])
    size = f"{options.rows:,} x {options.width:,} float32 twice; {options.repeats} turns."
    report.write("metrics", command, table, note=size)
    (ROOT / "docs" / "performance_metrics.json").write_text(
        json.dumps({"machine": report.machine(), "seconds": seconds, "results": results}, indent=2) + "\n")


if __name__ == "__main__":
  main()
