"""What can be known to be wrong before any work is done."""

from spectral_jax._names import check_name
from spectral_jax.selection.epoch import RULES
from spectral_jax.training.objective import make_objective, make_whitening

COUNTS = ("batch_size", "microbatches", "model_parallel", "log_every", "checkpoint.every_steps", "checkpoint.keep",
          "data.image_size", "eval.batch_size", "eval.knn_k", "eval.knn_limit", "eval.baseline_limit",
          "eval.probe_steps", "eval.shots", "eval.shot_draws", "eval.shot_steps")
SELECTABLE = tuple(rule for rule in RULES if rule != "jest")  # which needs the embeddings of a reference model
NOT_NEGATIVE = ("seed", "epochs", "steps", "diagnostics_every", "eval_every_epochs",
                "eval.train_limit", "eval.test_limit")


def check_config(config):
  """Raises ValueError for names and numbers that no run could use; looks at the config alone."""
  for key in COUNTS:
    if config[key] < 1:
      raise ValueError(f"config.{key} must be at least 1, got {config[key]}")
  for key in NOT_NEGATIVE:
    if config[key] < 0:
      raise ValueError(f"config.{key} must not be negative, got {config[key]}")
  if not (config.epochs or config.steps):
    raise ValueError("config.epochs and config.steps are both 0; set one of them")
  check_name("data.path", config.data.path, ("auto", "resident", "stream"))
  check_name("selection.rule", config.selection.rule, SELECTABLE)
  make_objective(config.loss)
  make_whitening(config.whitening)


def check_batch(config, size, mesh):
  """Raises ValueError for a batch that does not fit the data or the devices."""
  batch, shards = config.batch_size, mesh.shape["data"]
  if batch > size:
    raise ValueError(
        f"config.batch_size={batch} is larger than the training set, {size} images; lower it to {size} or less")
  if batch % shards:
    raise ValueError(
        f"config.batch_size={batch} does not divide evenly over {shards} devices; "
        f"use {batch // shards * shards or shards} or {(batch // shards + 1) * shards}")
  if batch % (shards * config.microbatches):
    raise ValueError(
        f"config.microbatches={config.microbatches} does not divide the {batch // shards} examples that each of "
        f"{shards} devices holds; use a divisor of {batch // shards}")
