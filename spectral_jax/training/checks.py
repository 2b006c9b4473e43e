"""What can be known to be wrong before any work is done."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np

from spectral_jax._errors import ConfigError
from spectral_jax._names import check_mounted, check_name
from spectral_jax.config import keys, learner_names, main_name
from spectral_jax.data import check_data
from spectral_jax.defaults import get_defaults
from spectral_jax.evaluation import spread
from spectral_jax.mesh import check_sharding
from spectral_jax.models import check_model
from spectral_jax.selection.epoch import COVERAGES, RULES
from spectral_jax.training.batches.given import check_files
from spectral_jax.training.batches.planner import check_bank
from spectral_jax.training.objective import check_objective, learner_sections, make_whitening
from spectral_jax.training.optimizer import make_optimizer, peak_learning_rate, warmup_length
from spectral_jax.training.start import PARTS

if TYPE_CHECKING:
  from jax.sharding import Mesh

  from spectral_jax._types import Config
  from spectral_jax.data import Dataset

COUNTS = ("microbatches", "model_parallel", "log_every", "checkpoint.every_steps", "checkpoint.keep",
          "eval.batch_size", "eval.knn_k", "eval.knn_limit", "eval.baseline_limit",
          "eval.probe_steps", "eval.shots", "eval.shot_draws", "eval.shot_steps")
NOT_NEGATIVE = ("seed", "epochs", "steps", "diagnostics_every", "eval_every_epochs",
                "eval.train_limit", "eval.test_limit")
MAY_BE_NONE = ("augment.crop_scale", "loss.kwargs")
LARGEST_SEED = 2**31 - 1


def check_config(config: Config) -> None:
  """Raises ConfigError for names and numbers that no run could use; looks at the config alone, all of it."""
  _check_given(config)
  if config.batch_size < 2:
    raise ConfigError(f"config.batch_size must be at least 2, since an example needs others as negatives; "
                      f"got {config.batch_size}")
  for key in COUNTS:
    if not config[key] >= 1:
      raise ConfigError(f"config.{key} must be at least 1, got {config[key]}")
  for key in NOT_NEGATIVE:
    if not config[key] >= 0:
      raise ConfigError(f"config.{key} must not be negative, got {config[key]}")
  if config.seed > LARGEST_SEED:
    raise ConfigError(f"config.seed must be at most {LARGEST_SEED}, got {config.seed}")
  if not (config.epochs or config.steps):
    raise ConfigError("config.epochs and config.steps are both 0; set one of them")
  if not 0 < config.eval.probe_c < math.inf:
    raise ConfigError(f"config.eval.probe_c must be positive and finite, got {config.eval.probe_c}; 1.0 is the default")
  check_data(config.data, config.augment)
  check_mounted("config.init_from", config.init_from)
  check_name("init_part", config.init_part, PARTS)
  if not (config.init_step in ("best", "last") or config.init_step.isdigit()):
    raise ConfigError(f"config.init_step must be 'best', 'last' or a number of steps, got {config.init_step!r}")
  check_name("selection.rule", config.selection.rule, (*RULES, "file"))
  check_files(config.selection)
  check_name("selection.coverage", config.selection.coverage, COVERAGES)
  check_model(config.model, config.data.image_size)
  make_optimizer(config.optimizer)
  peak_learning_rate(config.optimizer, config.batch_size)
  if config.steps and config.optimizer.warmup_steps:
    warmup_length(config.optimizer, config.steps, 0)
  for name, section in learner_sections(config).items():
    if "/" in name:
      raise ConfigError(f"config.learners has {name!r}; a name must not contain '/', which separates it from "
                        "the names of metrics")
    check_objective(section)
  check_name("main_learner", main_name(config), tuple(learner_names(config)))
  make_whitening(config.whitening)
  check_bank(config.bank)
  check_sharding(config.sharding)


def _check_given(config):
  """Refuses None where it does not mean "choose for me": ml_collections lets every key be None."""
  defaults, given = get_defaults(), keys(config)
  for key in keys(defaults):
    if key in given and config[key] is None and defaults[key] not in ("", None) and key not in MAY_BE_NONE:
      raise ConfigError(f"config.{key} must not be None; {defaults[key]!r} is the default")


def _check_compared(limits, dataset):
  """Learners are compared on images that are looked at: unbiased CKA needs 4, and CDNV 2 classes."""
  for part, limit in (("train", "knn_limit"), ("train", "train_limit"), ("test", "test_limit")):
    labels = getattr(dataset, part).labels
    seen = labels[spread(len(labels), limits[limit])]
    if len(seen) < 4 or len(np.unique(seen)) < 2:
      raise ConfigError(
          f"config.eval.{limit}={limits[limit]} leaves {len(seen)} of the {len(labels)} images of the {part} set, of "
          f"{len(np.unique(seen))} classes, to compare learners on; they must be at least 4, of 2 classes")


def check_batch(config: Config, dataset: Dataset, mesh: Mesh) -> None:
  """Raises ConfigError for numbers that do not fit the data or the devices."""
  batch, shards, size = config.batch_size, mesh.shape["data"], dataset.train.size
  if batch > size:
    raise ConfigError(
        f"config.batch_size={batch} is larger than the training set, {size} images; lower it to {size} or less")
  if batch % shards:
    raise ConfigError(
        f"config.batch_size={batch} does not divide evenly over {shards} devices; "
        f"use {batch // shards * shards or shards} or {(batch // shards + 1) * shards}")
  if batch % (shards * config.microbatches):
    raise ConfigError(
        f"config.microbatches={config.microbatches} does not divide the {batch // shards} examples that each of "
        f"{shards} devices holds; use a divisor of {batch // shards}")
  if config.microbatches > 1 and batch // config.microbatches < 2:
    raise ConfigError(
        f"config.microbatches={config.microbatches} cuts a batch of {batch} into single examples, which batch "
        "normalization cannot normalize; use fewer")
  near = min(size, config.eval.knn_limit)
  if config.eval.knn_k >= near:
    raise ConfigError(
        f"config.eval.knn_k={config.eval.knn_k} neighbors would be all of the {near} training images that are "
        "looked at, and vote for the greatest class whatever the image; use fewer")
  if len(config.learners) > 1:
    _check_compared(config.eval, dataset)
  largest = int(np.bincount(dataset.train.labels).max())
  if config.eval.shots > largest:
    raise ConfigError(f"config.eval.shots={config.eval.shots} is more than any class has, {largest} training images")
