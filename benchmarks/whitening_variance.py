"""Which reading of "gradient variance over 50 steps" does whitening lower, and by how much? Every reading side by side.

  python benchmarks/whitening_variance.py [--config=digits] [--stages 0 100 500] [--seeds 0 1 2] [--write]

Two runs, one without and one with whitening of the embeddings. At each stage (steps of training) the gradient of 50
batches is taken without and with whitening, by the parameters, by the projector's outputs and by the rows that the loss
sees, once at fixed parameters and once along the next 50 steps. A ratio is the variance without over that with: above 1
where whitening lowers it. 2510.05767 states 1.37 and that it matches its upper bound. `--write` puts the tables into
docs/results.md and the figures into docs/whitening_variance.json.
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
from spectral_jax._arrays import unit_rows
from spectral_jax.config import load_config
from spectral_jax.data import open_dataset
from spectral_jax.mesh import make_mesh
from spectral_jax.progress import bar
from spectral_jax.training.objective import make_objective, make_whitening
from spectral_jax.training.run import prepare

PAGE, FIGURES = ROOT / "docs" / "results.md", ROOT / "docs" / "whitening_variance.json"
STEPS = 50
METHODS = ("", "zca")
# Each reading: what it is the variance of, and over what.
READINGS = {
    "parameters": "gradient by the parameters, over batches",
    "parameters, relative": "the same over the squared norm of its mean",
    "its norm": "norm of the gradient by the parameters, over batches",
    "its norm, relative": "the same over the squared mean norm",
    "outputs": "gradient by the projector's outputs, over rows",
    "rows": "gradient by the rows that the loss sees, over rows",
    "anchors": "closed-form gradient of the anchors on the sphere, over anchors",
    "anchors, norm": "its norm, over anchors",
    "bound": "mean of rho^2, what the band bounds the anchors' variance with"}


def measurer(config, run, method):
  """`(learner, views, batch) -> (flat gradient, scalars)` with that whitening."""
  gradient, plain = run.program.whitened(method), run.program.whitened("")
  temperature = run.hyper.temperature[run.program.main]
  whitening = config.whitening.copy_and_resolve_references()
  whitening.method = method
  whiten, objective = make_whitening(whitening), make_objective(config.loss)
  spread = lambda x: jnp.mean(jnp.sum((x - x.mean(0)) ** 2, axis=1)) * len(x) ** 2  # of the anchors' own terms, not of their mean

  @jax.jit
  def of(learner, views, batch):
    _, g, *_ = gradient(learner, views, batch, temperature)
    *_, raw = plain(learner, views, batch, temperature)
    loss = lambda rows: objective.loss({}, {}, rows, batch, temperature)[0]
    outputs = jnp.concatenate(jax.grad(lambda rows: loss(whiten(*rows)))(raw))
    seen = tuple(unit_rows(x) for x in whiten(*raw))
    rows = jnp.concatenate(jax.grad(loss)(seen))
    terms = bounds.band_terms(*seen, loss="nt_xent", temperature=temperature)
    anchors = gradients.anchor_gradients(*seen, loss="nt_xent", temperature=temperature)
    return ravel_pytree(g)[0], {
        "outputs": spread(outputs), "rows": spread(rows),
        "anchors": jnp.mean(jnp.sum((anchors - anchors.mean(0)) ** 2, axis=1)), "anchors, norm": jnp.var(terms.value),
        "bound": jnp.mean(terms.repulsion ** 2 * terms.anisotropy * terms.variance)}

  return of


def readings(flat, scalars):
  """The variances of one stage and method, from each batch's gradient and scalars."""
  flat, norms = np.stack(flat).astype(np.float64), np.linalg.norm(flat, axis=1)
  mean = flat.mean(0)
  variance = float(np.sum((flat - mean) ** 2) / (len(flat) - 1))
  own = {name: float(np.mean([float(s[name]) for s in scalars])) for name in scalars[0]}
  return {"parameters": variance, "parameters, relative": variance / float(mean @ mean),
          "its norm": float(norms.var(ddof=1)),
          "its norm, relative": float(norms.var(ddof=1) / norms.mean() ** 2), **own}


def batches_from(run, step):
  """The run's random batches from that step on."""
  while True:
    epoch, done = divmod(step, run.steps_per_epoch)
    for index in run.plan.random_table(epoch)[done:]:
      yield step, {"index": jnp.asarray(index), "labels": run.labels[index]}
      step += 1


def measure(run, of, state, step, *, moving):
  """Readings over the next `STEPS` batches, at the parameters of `state` or, moving, along the training that they make."""
  flat, scalars = [], []
  state = jax.tree.map(jnp.copy, state)  # a step donates what it is given
  for (now, batch), _ in zip(batches_from(run, step), range(STEPS)):
    views = run.views(state._replace(step=jnp.asarray(now, jnp.int32)), batch)
    g, own = of(state.learners[run.program.main], views, batch)
    flat.append(np.asarray(g))
    scalars.append(own)
    if moving:
      state, _ = run.step(state, {"index": batch["index"]})
  return readings(flat, scalars)


def study(config, stages, seeds):
  """Rows `{seed, stage, trained, measured, moving, readings}`."""
  results, dataset, mesh = [], open_dataset(config.data), make_mesh(devices=jax.devices()[:1])
  config.diagnostics_every = 0
  with bar("measuring", len(seeds) * 2 * len(stages), unit="stages") as progress:
    for seed in seeds:
      for trained in METHODS:
        own = config.copy_and_resolve_references()
        own.seed, own.whitening.method = seed, trained
        run = prepare(own, dataset, mesh)
        state, step, measurers = run.init(), 0, {method: measurer(own, run, method) for method in METHODS}
        for stage in stages:
          for (_, batch), _ in zip(batches_from(run, step), range(stage - step)):
            state, _ = run.step(state, {"index": batch["index"]})
          step = stage
          cases = [(method, False) for method in METHODS] + [(trained, True)]
          for method, moving in cases:
            results.append({"seed": seed, "stage": stage, "trained": trained, "measured": method, "moving": moving,
                            **measure(run, measurers[method], state, step, moving=moving)})
          progress.update()
  return results


# A column: trained and measured without, trained and measured with, moving.
PAIRS = {
    "trained without": (("", "", False), ("", "zca", False)),
    "trained with": (("zca", "", False), ("zca", "zca", False)),
    "each its own": (("", "", False), ("zca", "zca", False)),
    "each its own, along 50 steps": (("", "", True), ("zca", "zca", True))}


def tables(results):
  """Markdown: a table for each stage, the ratio of each reading: geometric means over seeds."""
  parts, near = [], []
  for stage in dict.fromkeys(r["stage"] for r in results):
    lines = [f"After {stage} steps, variance without over with whitening:", "",
             "| reading | " + " | ".join(PAIRS) + " |", "|---|" + "---:|" * len(PAIRS)]
    for reading, what in READINGS.items():
      cells = []
      for name, pair in PAIRS.items():
        logs = ratios(results, stage, pair, reading)
        low, mean, high = (np.exp(x) for x in (min(logs), np.mean(logs), max(logs)))
        cells.append(f"{mean:.2f} ({low:.2f} to {high:.2f})")
        if low <= 1.37 <= high:
          near.append(f"{reading}, {name}, after {stage} steps")
      lines.append(f"| {what} | " + " | ".join(cells) + " |")
    parts.append("\n".join(lines))
  count = len(READINGS) * len(PAIRS) * len(parts)
  parts.append(f"Of {count} ratios those whose seeds enclose 1.37: {'; '.join(near) or 'none'}.")
  return "\n\n".join(parts)


def ratios(results, stage, pair, reading):
  """Logarithms of the ratio, one a seed."""
  of = lambda seed, key: next(r[reading] for r in results if r["seed"] == seed and r["stage"] == stage
                              and (r["trained"], r["measured"], r["moving"]) == key)
  return [np.log(of(seed, pair[0]) / of(seed, pair[1])) for seed in dict.fromkeys(r["seed"] for r in results)]


def main():
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  parser.add_argument("--config", default="digits")
  parser.add_argument("--stages", type=int, nargs="+", default=[0, 100, 500])
  parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
  parser.add_argument("--batch_size", type=int, default=128)
  parser.add_argument("--width", type=float, default=0.5, help="of the encoder")
  parser.add_argument("--write", action="store_true", help="put the tables into docs/results.md")
  options = parser.parse_args()
  config = load_config(options.config)
  config.batch_size, config.model.width = options.batch_size, options.width
  results = study(config, sorted(options.stages), options.seeds)
  print(tables(results))
  if options.write:
    FIGURES.write_text("[\n" + ",\n".join(map(json.dumps, results)) + "\n]\n")
    report.write("whitening_variance", "python benchmarks/whitening_variance.py --write", tables(results), page=PAGE,
                 note=f"{options.config}, batches of {options.batch_size}, width {options.width}; geometric means over seeds {', '.join(map(str, options.seeds))}, least and greatest.")


if __name__ == "__main__":
  main()
