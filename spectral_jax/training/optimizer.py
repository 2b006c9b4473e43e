"""Optimisers and the learning-rate schedule."""

import jax
import jax.numpy as jnp
import optax

from spectral_jax._names import check_name

OPTIMIZERS = ("sgd", "lars", "adamw")
RULES = ("linear", "sqrt", "none")


def scaled_learning_rate(learning_rate, batch_size, *, rule="linear"):
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


def warmup_cosine(peak, warmup_steps, total_steps):
  """Linear warm-up to `peak` over `warmup_steps`, then half a cosine (arXiv 1608.03983) to zero at `total_steps`.

  Step t < w has the rate `peak * (t + 1) / w`, so that the first step already moves; later steps have
  `peak * (1 + cos(pi * (t - w) / (T - w))) / 2`.

  >>> schedule = warmup_cosine(1.0, 4, 12)
  >>> [round(float(schedule(t)), 2) for t in (0, 3, 4, 8, 12)]
  [0.25, 1.0, 1.0, 0.5, 0.0]
  """
  def schedule(step):
    warm = (step + 1) / max(warmup_steps, 1)
    done = (step - warmup_steps) / max(total_steps - warmup_steps, 1)
    cosine = 0.5 * (1 + jnp.cos(jnp.pi * jnp.clip(done, 0, 1)))
    return peak * jnp.where(step < warmup_steps, warm, cosine)
  return schedule


def decayed(params):
  """True at each parameter that is decayed and adapted: kernels, but not biases nor normalisation scales.

  Those are the parameters of fewer than two dimensions.
  """
  return jax.tree.map(lambda p: p.ndim > 1, params)


def make_optimizer(config, batch_size, total_steps, steps_per_epoch):
  """The gradient transformation and learning-rate schedule that `config.optimizer` describes.

  Args:
    config: ConfigDict with `name` ("sgd": momentum; "lars": You et al. 2017, arXiv 1708.03888; "adamw"),
      `learning_rate` (per 256 images), `weight_decay`, `momentum` (AdamW's first decay rate when name is "adamw"),
      and the warm-up's length: `warmup_steps` if there and above zero, else `warmup_epochs`. Optional:
      `scale_with_batch` (default True), `batch_scaling` ("linear", the default, "sqrt" or "none").
    batch_size: images (not views) in the global batch.
    total_steps: steps at which the cosine reaches zero.
    steps_per_epoch: converts `warmup_epochs`.

  Returns:
    `(tx, schedule)`: an optax transformation, and `schedule(step)`, the learning rate of a step counted from 0.

  Raises:
    ValueError: on an unknown name, a learning rate that is not positive, or a warm-up longer than the run.

  >>> import ml_collections
  >>> config = ml_collections.ConfigDict(dict(name="lars", learning_rate=0.3, weight_decay=1e-6, momentum=0.9,
  ...                                         warmup_epochs=10))
  >>> tx, schedule = make_optimizer(config, batch_size=512, total_steps=1000, steps_per_epoch=10)
  >>> round(float(schedule(99)), 3)
  0.6
  """
  check_name("optimizer.name", config.name, OPTIMIZERS)
  if not config.learning_rate > 0:
    raise ValueError(f"config.optimizer.learning_rate must be positive, got {config.learning_rate}")
  if config.weight_decay < 0:
    raise ValueError(f"config.optimizer.weight_decay must not be negative, got {config.weight_decay}")
  if not 0 <= config.momentum < 1:
    raise ValueError(f"config.optimizer.momentum must be in [0, 1), got {config.momentum}")
  warmup_steps = config.get("warmup_steps") or round(config.warmup_epochs * steps_per_epoch)
  if not 0 <= warmup_steps <= total_steps:
    raise ValueError(f"the warm-up takes {warmup_steps} steps, but the run has {total_steps}; "
                     "lower config.optimizer.warmup_epochs or train longer")
  rule = config.get("batch_scaling", "linear") if config.get("scale_with_batch", True) else "none"
  peak = scaled_learning_rate(config.learning_rate, batch_size, rule=rule)
  schedule = warmup_cosine(peak, warmup_steps, total_steps)
  if config.name == "lars":
    tx = optax.lars(schedule, config.weight_decay, weight_decay_mask=decayed, trust_ratio_mask=decayed,
                    momentum=config.momentum)
  elif config.name == "adamw":
    tx = optax.adamw(schedule, b1=config.momentum, weight_decay=config.weight_decay, mask=decayed)
  else:
    tx = optax.chain(optax.add_decayed_weights(config.weight_decay, mask=decayed),
                     optax.sgd(schedule, momentum=config.momentum))
  return tx, schedule

