"""Gradient variance of KCL and of softmax losses at batch sizes 2 to 512, at fixed parameters, on the digits.

  python benchmarks/batch_variance.py OUT.json [--steps=100] [--batches=50] [--seeds=0,1,2]

The network is the digits config's at half its width, trained for `--steps` steps of InfoNCE with batches of 128; what
is measured is said in `spectral_jax/studies/batch_variance.py`. `benchmarks/results.py` makes a section of
docs/results.md of the file.
"""

import argparse
import datetime
import json
import pathlib
import sys

ROOT = pathlib.Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "benchmarks")]

import report

from spectral_jax.config import load_config
from spectral_jax.data import open_dataset
from spectral_jax.defaults import learner
from spectral_jax.mesh import make_mesh
from spectral_jax.studies.batch_variance import batch_variance
from spectral_jax.studies.moments import trained
from spectral_jax.training.run import prepare

SIZES = (2, 4, 8, 16, 32, 64, 128, 256, 512)
LOSSES = {"kcl": learner("kcl"), "info_nce": learner("info_nce", temperature=0.5),
          "dhel": learner("dhel", temperature=0.5)}


def main():
  parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
  parser.add_argument("out", type=pathlib.Path)
  parser.add_argument("--steps", type=int, default=100)
  parser.add_argument("--batches", type=int, default=50)
  parser.add_argument("--seeds", default="0,1,2")
  options = parser.parse_args()
  config = load_config("digits")
  config.update_from_flattened_dict({
      "batch_size": 128, "steps": max(options.steps, 1), "model.width": 0.5, "loss.name": "info_nce",
      "optimizer.warmup_epochs": 0, "diagnostics_every": 0})
  dataset, mesh, runs = open_dataset(config.data), make_mesh(), []
  about = {"command": f"python benchmarks/batch_variance.py OUT.json --steps={options.steps} "
                      f"--batches={options.batches} --seeds={options.seeds}", "machine": report.machine(),
           "date": str(datetime.date.today()),
           "batches": options.batches, "steps": options.steps}
  for seed in map(int, options.seeds.split(",")):
    config.seed = seed
    run = prepare(config, dataset, mesh)
    rows = batch_variance(run, trained(run, options.steps), LOSSES, SIZES, batches=options.batches, seed=seed)
    runs.append({"seed": seed, "rows": rows})
    said = [f"{name} {row[SIZES[0]]['variance']:.3g} to {row[SIZES[-1]]['variance']:.3g}" for name, row in rows.items()]
    print(f"seed {seed}: {', '.join(said)}", flush=True)
    options.out.write_text(json.dumps({"about": about, "runs": runs}, indent=2) + "\n")


if __name__ == "__main__":
  main()
