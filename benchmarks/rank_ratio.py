"""Measures how far each selection rule moves the effective rank of batches: its mean over that of random batches.

  python benchmarks/rank_ratio.py [NAME=]EMBEDDINGS.npz ... [--batch_sizes 16 32 64 128 256] [--rules greedy gcbs ...]

Prints a table and JSON; `--write` puts the table into docs/selection.md and the figures into docs/rank_ratio.json,
beside those of other data. A ratio of 1 says that the rule cannot matter through the rank. The embeddings are the array
"embeddings" of the file, or its only one; with an array "labels" the classes in a batch are counted too.
benchmarks/features.py makes such files.
"""

import argparse
import json
import pathlib
import sys

import jax
import jax.numpy as jnp
import numpy as np

ROOT = pathlib.Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from benchmarks import report
from spectral_jax._arrays import unit_rows
from spectral_jax.progress import bar
from spectral_jax.selection import epoch_batches
from spectral_jax.selection.epoch import SPLITS
from spectral_jax.spectrum import effective_rank

PAGE, FIGURES = ROOT / "docs" / "selection.md", ROOT / "docs" / "rank_ratio.json"
BALANCED, INDEPENDENT = {"coverage": "balanced"}, {"coverage": "independent"}
RULES = {
    "random": {"rule": "random"},
    "greedy_balanced": {"rule": "greedy", **BALANCED},
    "greedy_oversampled": {"rule": "greedy", "coverage": "oversampled"},
    "greedy": {"rule": "greedy", **INDEPENDENT},
    "greedy_all": {"rule": "greedy", "candidates": None, **INDEPENDENT},
    "greedy_min": {"rule": "greedy", "objective": "min", **INDEPENDENT},
    "pool_p3": {"rule": "pool", **INDEPENDENT},
    "log_det": {"rule": "log_det", **INDEPENDENT},
    "log_det_balanced": {"rule": "log_det", **BALANCED},
    "hard": {"rule": "hard", **INDEPENDENT},
    "hard_balanced": {"rule": "hard", **BALANCED},
    "submodular": {"rule": "submodular", **INDEPENDENT},
    "submodular_balanced": {"rule": "submodular", **BALANCED},
    **{rule: {"rule": rule} for rule in SPLITS},
}


def read(argument):
  """The name, embeddings and labels (or None) of a file, `[NAME=]PATH`."""
  name, _, path = argument.rpartition("=")
  path = pathlib.Path(path)
  with np.load(path) as file:
    key = "embeddings" if "embeddings" in file.files else file.files[0]
    return name or path.stem, jnp.asarray(file[key], jnp.float32), file["labels"] if "labels" in file.files else None


def measure(bank, labels, batch_size, rule, seeds):
  """Of the epochs of `seeds`: the batches' mean rank, the lowest and highest, the share of examples seen, classes."""
  build = jax.jit(lambda key, bank: epoch_batches(key, bank, batch_size, **RULES[rule]))
  rows = unit_rows(bank)
  epochs = np.stack([build(jax.random.key(seed), bank) for seed in range(seeds)])
  ranks = np.asarray(jax.lax.map(lambda batch: effective_rank(rows[batch], kind="participation"),
                                 jnp.asarray(epochs.reshape(-1, batch_size)))).reshape(seeds, -1)
  return {"rank": float(ranks.mean()), "lowest": float(ranks.min()), "highest": float(ranks.max()),
          "seen": float(np.mean([len(np.unique(epoch)) for epoch in epochs]) / len(bank)),
          "classes": None if labels is None else float(np.mean([len(set(labels[b])) for e in epochs for b in e])),
          "rank_of_each_seed": ranks.mean(1).tolist()}


def measure_all(files, batch_sizes, rules, seeds):
  results, banks = [], [read(file) for file in files]
  with bar("measuring", len(banks) * len(batch_sizes) * len(rules), unit="rules") as progress:
    for name, bank, labels in banks:
      whole = float(effective_rank(unit_rows(bank), kind="participation"))
      for batch_size in (b for b in batch_sizes if b <= len(bank)):
        for rule in ["random", *(rule for rule in rules if rule != "random")]:
          found = measure(bank, labels, batch_size, rule, seeds)
          if rule == "random":
            uniform = found
          results.append({
              "data": name, "examples": len(bank), "width": bank.shape[1], "rank_of_all": whole,
              "batch_size": batch_size, "rule": rule, **found, "ratio": found["rank"] / uniform["rank"],
              "ratio_of_each_seed": (np.array(found["rank_of_each_seed"]) / uniform["rank_of_each_seed"]).tolist()})
          progress.update()
  return results


def tables(results):
  """Markdown: for each data set the rank of random batches, and each rule's ratio to it by batch size."""
  parts = []
  for name in dict.fromkeys(r["data"] for r in results):
    mine = [r for r in results if r["data"] == name]
    sizes = list(dict.fromkeys(r["batch_size"] for r in mine))
    cell = {(r["rule"], r["batch_size"]): r for r in mine}
    lines = [f"### {name}: {mine[0]['examples']:,} x {mine[0]['width']}, rank of all {mine[0]['rank_of_all']:.1f}", "",
             "| rule | " + " | ".join(f"batches of {size}" for size in sizes) + " | examples seen |",
             "|---|" + "---:|" * (len(sizes) + 1),
             "| random: the rank | " + " | ".join(f"{cell['random', s]['rank']:.1f}" for s in sizes)
             + f" | {100 * cell['random', sizes[0]]['seen']:.0f}% |"]
    if mine[0]["classes"] is not None:
      lines.append("| random: classes | " + " | ".join(f"{cell['random', s]['classes']:.1f}" for s in sizes) + " | |")
    most = [min(size, mine[0]["rank_of_all"]) / cell["random", size]["rank"] for size in sizes]
    lines.append("| most a partition can reach | " + " | ".join(f"{ratio:.2f}" for ratio in most) + " | |")
    for rule in dict.fromkeys(r["rule"] for r in mine if r["rule"] != "random"):
      seen = [100 * cell[rule, s]["seen"] for s in sizes]
      span = f"{min(seen):.0f}%" if max(seen) - min(seen) < 0.5 else f"{min(seen):.0f} to {max(seen):.0f}%"
      lines.append(f"| {rule} | " + " | ".join(f"{cell[rule, s]['ratio']:.2f}" for s in sizes) + f" | {span} |")
    parts.append("\n".join(lines))
  return "\n\n".join(parts)


def main():
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  parser.add_argument("files", nargs="+", metavar="[NAME=]FILE.npz")
  parser.add_argument("--batch_sizes", type=int, nargs="+", default=[16, 32, 64, 128, 256])
  parser.add_argument("--rules", nargs="+", choices=list(RULES), default=list(RULES))
  parser.add_argument("--seeds", type=int, default=3)
  parser.add_argument("--write", action="store_true", help="put the table into docs/selection.md")
  options = parser.parse_args()
  results = measure_all(options.files, options.batch_sizes, options.rules, options.seeds)
  print(tables(results))
  print(json.dumps(results))
  if options.write:
    names = {r["data"] for r in results}
    kept = json.loads(FIGURES.read_text()) if FIGURES.exists() else []
    results = [r for r in kept if r["data"] not in names] + results
    FIGURES.write_text("[\n" + ",\n".join(map(json.dumps, results)) + "\n]\n")
    report.write("rank_ratio", "python benchmarks/rank_ratio.py", tables(results), page=PAGE,
                 note=f"Means over the epochs of {options.seeds} seeds.")


if __name__ == "__main__":
  main()
