"""Writes the embeddings that `benchmarks/rank_ratio.py` reads: pixels, an untrained encoder, or one after some epochs.

  python benchmarks/features.py OUT.npz --kind=pixels --config=digits
  python benchmarks/features.py OUT.npz --kind=encoder --epochs=20 --config=digits --set batch_size=128

`pixels` are the principal components of the training images, 128 at most; `encoder` is the bank that a run would choose
its batches by, after that many epochs of random batches (0: untrained).
"""

import argparse
import ast
import pathlib
import sys

import jax
import numpy as np

ROOT = pathlib.Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from spectral_jax.config import find_config, load_config
from spectral_jax.data.open import open_dataset
from spectral_jax.mesh import make_mesh
from spectral_jax.progress import bar
from spectral_jax.training.run import prepare

COMPONENTS = 128


def pixels(dataset):
  """Principal components `(n, 128 or fewer)` of the images."""
  images = dataset.train.images().reshape(dataset.train.size, -1).astype(np.float64)
  images -= images.mean(0)
  values, vectors = np.linalg.eigh(images.T @ images)
  kept = values > 1e-9 * values[-1]
  return (images @ vectors[:, kept][:, ::-1][:, :COMPONENTS]).astype(np.float32)


def encoder(config, dataset, epochs):
  """The bank of embeddings `(n, projector_dim)` after `epochs` epochs of random batches."""
  config.selection.rule = "greedy"  # any that looks at embeddings; the batches here are random all the same
  run = prepare(config, dataset, make_mesh(devices=jax.devices()[:1]))
  state, step = run.init(), 0
  with bar("training", epochs * run.steps_per_epoch, unit="steps") as progress:
    for epoch in range(epochs):
      for batch in run.feed(run.plan.random_table(epoch), step):
        state, _ = run.step(state, batch)
        step += 1
        progress.update()
  return np.asarray(run.bank.rows(run.bank.refresh(state)), np.float32)


def main():
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  parser.add_argument("out", type=pathlib.Path)
  parser.add_argument("--kind", choices=("pixels", "encoder"), default="encoder")
  parser.add_argument("--config", default="digits")
  parser.add_argument("--epochs", type=int, default=0)
  parser.add_argument("--set", nargs="*", default=[], metavar="KEY=VALUE", help="keys of the config")
  options = parser.parse_args()
  config = load_config(find_config(options.config))
  for setting in options.set:
    key, text = setting.split("=", 1)
    try:
      value = ast.literal_eval(text)
    except (ValueError, SyntaxError):
      value = text
    config.update_from_flattened_dict({key: value})
  if options.epochs:
    config.epochs = options.epochs  # the schedule of the learning rate ends there
  dataset = open_dataset(config.data)
  rows = pixels(dataset) if options.kind == "pixels" else encoder(config, dataset, options.epochs)
  np.savez(options.out, embeddings=rows, labels=dataset.train.labels)
  print(f"{options.out}: {rows.shape[0]:,} x {rows.shape[1]}, {len(dataset.class_names)} classes")


if __name__ == "__main__":
  main()
