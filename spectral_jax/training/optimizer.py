"""Optimizers and the learning-rate schedule."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import jax
import jax.numpy as jnp
import optax

from spectral_jax._errors import ConfigError
from spectral_jax._names import check_name

if TYPE_CHECKING:
  from collections.abc import Callable
  from typing import Any

  from jaxtyping import PyTree

  from spectral_jax._types import Config

OPTIMIZERS = ("sgd", "lars", "adamw")
RULES = ("linear", "sqrt", "none")


def scaled_learning_rate(learning_rate: float, batch_size: int, *, rule: str = "linear") -> float:
  """The peak learning rate for a batch: `lr * B / 256` ("linear"), `lr * sqrt(B / 256)` ("sqrt") or `lr` ("none").

  Args:
    learning_rate: the rate per 256 images.
    batch_size: images (not views) in the global batch.
    rule: "linear" (Goyal et al. 2017, arXiv 1706.02677), "sqrt" (Krizhevsky 2014, arXiv 1404.5997; SimCLR's for small
      batches) or "none".

  >>> scaled_learning_rate(0.3, 1024), scaled_learning_rate(0.3, 1024, rule="sqrt")
  (1.2, 0.6)
  """
  check_name("optimizer.batch_scaling", rule, RULES)
  ratio = batch_size / 256
  return learning_rate * {"linear": ratio, "sqrt": ratio**0.5, "none": 1.0}[rule]


def warmup_cosine(peak: Any, warmup_steps: Any, total_steps: Any) -> Callable[[Any], Any]:
  """Linear warm-up to `peak` over `warmup_steps`, then half a cosine (arXiv 1608.03983) to zero at `total_steps`.

  Step t < w has the rate `peak * (t + 1) / w`, so that the first step already moves; later steps have
  `peak * (1 + cos(pi * (t - w) / (T - w))) / 2`.

  >>> schedule = warmup_cosine(1.0, 4, 12)
  >>> [round(float(schedule(t)), 2) for t in (0, 3, 4, 8, 12)]
  [0.25, 1.0, 1.0, 0.5, 0.0]
  """
  def schedule(step):
    warm = (step + 1) / jnp.maximum(warmup_steps, 1)
    done = (step - warmup_steps) / jnp.maximum(total_steps - warmup_steps, 1)
    cosine = 0.5 * (1 + jnp.cos(jnp.pi * jnp.clip(done, 0, 1)))
    return peak * jnp.where(step < warmup_steps, warm, cosine)
  return schedule


def decayed(params: PyTree) -> PyTree:
  """True at each parameter that is decayed and adapted: kernels, but not biases nor normalization scales.

  Those are the parameters of fewer than two dimensions.
  """
  return jax.tree.map(lambda p: p.ndim > 1, params)


def make_optimizer(config: Config) -> Callable[..., Any]:
  """The optimizer that `config.optimizer` describes, as a function of the numbers that runs may differ in.

  Args:
    config: Config with `name` ("sgd": momentum; "lars": You et al. 2017, arXiv 1708.03888; "adamw"),
      `weight_decay`, and `momentum` (AdamW's first decay rate when name is "adamw").

  Returns:
    `make_tx(hyper) -> (tx, schedule)`, `hyper` having `learning_rate` (the peak), `warmup_steps` and `total_steps`, all
    of which may be traced: an optax transformation, and `schedule(step)`, the learning rate of a step counted from 0.

  Raises:
    ConfigError: on an unknown name or a number that no run could use.

  >>> import ml_collections, types
  >>> config = ml_collections.ConfigDict(dict(name="lars", weight_decay=1e-6, momentum=0.9))
  >>> hyper = types.SimpleNamespace(learning_rate=0.6, warmup_steps=100, total_steps=1000)
  >>> tx, schedule = make_optimizer(config)(hyper)
  >>> round(float(schedule(99)), 3)
  0.6
  """
  check_name("optimizer.name", config.name, OPTIMIZERS)
  if not 0 <= config.weight_decay < math.inf:
    raise ConfigError(f"config.optimizer.weight_decay must be finite and not negative, got {config.weight_decay}")
  if not 0 <= config.momentum < 1:
    raise ConfigError(f"config.optimizer.momentum must be in [0, 1), got {config.momentum}")
  name, weight_decay, momentum = config.name, config.weight_decay, config.momentum

  def make_tx(hyper):
    schedule = warmup_cosine(hyper.learning_rate, hyper.warmup_steps, hyper.total_steps)
    if name == "lars":
      tx = optax.lars(schedule, weight_decay, weight_decay_mask=decayed, trust_ratio_mask=decayed, momentum=momentum)
    elif name == "adamw":
      tx = optax.adamw(schedule, b1=momentum, weight_decay=weight_decay, mask=decayed)
    else:
      tx = optax.chain(optax.add_decayed_weights(weight_decay, mask=decayed), optax.sgd(schedule, momentum=momentum))
    return tx, schedule

  return make_tx


def peak_learning_rate(config: Config, batch_size: int) -> float:
  """The rate at the end of the warm-up: `config.learning_rate`, per 256 images, scaled as the config says.

  Raises:
    ConfigError: it is not a positive, finite number.
  """
  if not 0 < config.learning_rate < math.inf:
    raise ConfigError(f"config.optimizer.learning_rate must be positive and finite, got {config.learning_rate}")
  rule = config.get("batch_scaling", "linear") if config.get("scale_with_batch", True) else "none"
  return scaled_learning_rate(config.learning_rate, batch_size, rule=rule)


def warmup_length(config: Config, total_steps: int, steps_per_epoch: int) -> int:
  """Steps of the warm-up: `warmup_steps` where that is given, else `warmup_epochs`.

  Raises:
    ConfigError: it is longer than the run.
  """
  epochs, steps = config.warmup_epochs, config.get("warmup_steps")
  if not 0 <= epochs < math.inf or (steps or 0) < 0:
    raise ConfigError(f"config.optimizer.warmup_epochs={epochs} and warmup_steps={steps} must not be negative")
  steps = steps or round(epochs * steps_per_epoch)
  if steps > total_steps:
    raise ConfigError(f"the warm-up takes {steps} steps, but the run has {total_steps}; "
                      "lower config.optimizer.warmup_epochs (0: no warm-up) or train longer")
  return steps
