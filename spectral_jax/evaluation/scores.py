"""The three figures that every representation is judged by."""

import jax.numpy as jnp

from spectral_jax.evaluation.probes import few_shot_accuracy, linear_accuracy
from spectral_jax.metrics import knn_accuracy


def score(train_z, train_y, test_z, test_y, *, num_classes, config, seed=0):
  """Returns kNN, linear and k-shot accuracy of frozen features.

  Args:
    train_z: `(m, d)` features of the training set.
    train_y: `(m,)` integer classes.
    test_z: `(n, d)` features of the test set.
    test_y: `(n,)` integer classes.
    num_classes: number of classes.
    config: the config's `eval` section.
    seed: of the random draws of labelled examples.

  Returns:
    A dict of floats: `knn_accuracy`, `linear_accuracy`, `five_shot_accuracy` (with `config.shots` labels a class).
  """
  train_y, test_y = jnp.asarray(train_y), jnp.asarray(test_y)
  sets = (train_z, train_y, test_z, test_y)
  return {
      "knn_accuracy": float(knn_accuracy(*sets, k=config.knn_k)),
      "linear_accuracy": float(
          linear_accuracy(*sets, num_classes=num_classes, c=config.probe_c, steps=config.probe_steps)),
      "five_shot_accuracy": float(
          few_shot_accuracy(*sets, num_classes=num_classes, shots=config.shots, draws=config.shot_draws,
                            c=config.probe_c, steps=config.shot_steps, seed=seed)),
  }
