"""Through what does a selection rule act? Gradients of the batches that rules choose, at the same parameters.

  python benchmarks/selected_gradients.py [--config=omniglot] [--epochs 2 8 16] [--seeds 0 1 2] [--write]

Trains with random batches; after each of the epochs every rule chooses an epoch from the bank, and the training step's
own gradient is taken of all its batches, each with views of its own. Per rule: the batches' rank; the loss; the mean
norm of the gradient by parameters; its variance `sum ||g_k - m||^2 / (K - 1)` over batches; the cosine of its mean `m`
with that of random batches; the anchors' mean squared gradient, its band, and their effective negatives. `--write` puts
the tables into docs/results.md and the figures of every seed into docs/selected_gradients.json.
"""

import argparse
import json
import pathlib
import sys

import jax
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree

ROOT = pathlib.Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "benchmarks")]

import report

from spectral_jax import bounds, gradients
from spectral_jax.config import load_config
from spectral_jax.data import open_dataset
from spectral_jax.mesh import make_mesh
from spectral_jax.progress import bar
from spectral_jax.selection import epoch_batches
from spectral_jax.spectrum import effective_rank
from spectral_jax.training.run import prepare

PAGE, FIGURES = ROOT / "docs" / "results.md", ROOT / "docs" / "selected_gradients.json"
BALANCED = dict(coverage="balanced")
RULES = {
    "random": dict(rule="random"), "greedy_balanced": dict(rule="greedy", **BALANCED),
    "greedy": dict(rule="greedy", coverage="independent"), "pool_p3": dict(rule="pool", coverage="independent"),
    "log_det_balanced": dict(rule="log_det", **BALANCED), "hard_balanced": dict(rule="hard", **BALANCED),
    "submodular_balanced": dict(rule="submodular", **BALANCED), "spectral": dict(rule="spectral"),
    "cluster": dict(rule="cluster"), "gcbs": dict(rule="gcbs"), "b3": dict(rule="b3", skip=10)}
# Key of a figure, the head of its column, digits.
COLUMNS = (("rank", "rank", 1), ("loss", "loss", 2), ("norm", "gradient norm", 2), ("variance", "variance", 2),
           ("noise", "variance / squared mean", 1), ("cosine", "cosine with random", 2),
           ("anchor", "anchors' squared gradient", 2),
           ("band", "band", 0), ("negatives", "effective negatives", 1))


def measurer(run):
  """`(learner, views, batch) -> (flat gradient, scalars)` of the training step's own gradient."""
  gradient, temperature = run.program.whitened(""), run.hyper.temperature[run.program.main]

  @jax.jit
  def of(learner, views, batch):
    loss, g, _, _, (u, v) = gradient(learner, views, batch, temperature)
    band = bounds.batch_band(u, v, temperature=temperature)
    terms = gradients.anchor_terms(u, v, temperature=temperature)
    return ravel_pytree(g)[0], {"loss": loss, "lower": band.lower, "anchor": band.value, "upper": band.upper,
                                "negatives": jnp.mean(terms.effective_negatives)}

  return of


def measure(run, of, state, rows, table, step):
  """The figures of one epoch of batches, and its mean gradient."""
  rank = jax.jit(lambda batch: effective_rank(rows[batch], kind="participation"))
  flat, scalars = [], []
  for k, index in enumerate(table):
    batch = {"index": jnp.asarray(index), "labels": run.labels[index]}
    views = run.views(state._replace(step=jnp.asarray(step + k, jnp.int32)), batch)
    g, own = of(state.learners[run.program.main], views, batch)
    flat.append(np.asarray(g, np.float64))
    scalars.append({**{name: float(x) for name, x in own.items()}, "rank": float(rank(index))})
  flat = np.stack(flat)
  mean = flat.mean(0)
  variance = np.sum((flat - mean) ** 2) / (len(flat) - 1)
  figures = {name: float(np.mean([s[name] for s in scalars])) for name in scalars[0]}
  return {**figures, "norm": float(np.linalg.norm(flat, axis=1).mean()), "variance": float(variance),
          "noise": float(variance / (mean @ mean)), "mean_norm": float(np.linalg.norm(mean))}, mean


def study(config, epochs, seeds):
  """Rows `{seed, epoch, rule, ...}`."""
  results, dataset, mesh = [], open_dataset(config.data), make_mesh(devices=jax.devices()[:1])
  config.selection.rule = "greedy"  # any that looks at embeddings: training itself is on random batches
  with bar("measuring", len(seeds) * len(epochs) * len(RULES), unit="rules") as progress:
    for seed in seeds:
      config.seed = seed
      run = prepare(config, dataset, mesh)
      of, state, step = measurer(run), run.init(), 0
      for epoch in range(max(epochs)):
        for batch in run.feed(run.plan.random_table(epoch), step):
          state, _ = run.step(state, batch)
          step += 1
        if epoch + 1 not in epochs:
          continue
        rows = run.bank.rows(run.bank.refresh(state))
        uniform = None
        for rule, options in RULES.items():
          table = np.asarray(epoch_batches(jax.random.key(seed), rows, config.batch_size, **options))
          figures, mean = measure(run, of, state, rows, table, step)
          uniform = mean if uniform is None else uniform
          cosine = mean @ uniform / np.linalg.norm(mean) / np.linalg.norm(uniform)
          results.append({"seed": seed, "epoch": epoch + 1, "rule": rule, **figures, "cosine": float(cosine)})
          progress.update()
  return results


def tables(results):
  """Markdown: a table for each epoch, means over seeds."""
  parts = []
  for epoch in dict.fromkeys(r["epoch"] for r in results):
    lines = [f"After {epoch} epochs:", "", "| rule | " + " | ".join(title for _, title, _ in COLUMNS) + " |",
             "|---|" + "---:|" * len(COLUMNS)]
    for rule in RULES:
      mine = [r for r in results if (r["epoch"], r["rule"]) == (epoch, rule)]
      mean = lambda key: np.mean([r[key] for r in mine])
      cells = [f"{mean('lower'):.1f} to {mean('upper'):.1f}" if key == "band" else f"{mean(key):.{digits}f}"
               for key, _, digits in COLUMNS]
      lines.append(f"| {rule} | " + " | ".join(cells) + " |")
    parts.append("\n".join(lines))
  return "\n\n".join(parts)


def main():
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  parser.add_argument("--config", default="omniglot")
  parser.add_argument("--epochs", type=int, nargs="+", default=[2, 8, 16])
  parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
  parser.add_argument("--write", action="store_true", help="put the tables into docs/results.md")
  options = parser.parse_args()
  config = load_config(options.config)
  results = study(config, options.epochs, options.seeds)
  print(tables(results))
  if options.write:
    FIGURES.write_text("[\n" + ",\n".join(map(json.dumps, results)) + "\n]\n")
    report.write("selected_gradients", "python benchmarks/selected_gradients.py --write", tables(results), page=PAGE,
                 note=f"{options.config}, means over seeds {', '.join(map(str, options.seeds))}.")


if __name__ == "__main__":
  main()
