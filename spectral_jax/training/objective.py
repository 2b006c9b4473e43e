"""From the config's `loss` and `whitening` to one objective: what it owns, and the loss of two views' embeddings."""

from __future__ import annotations

import inspect
import math
import re
from collections.abc import Callable
from typing import TYPE_CHECKING, NamedTuple

import jax
import jax.numpy as jnp
import optax

from spectral_jax import losses, spectrum
from spectral_jax._errors import ConfigError
from spectral_jax._names import check_name, nearest

if TYPE_CHECKING:
  from collections.abc import Mapping
  from typing import Any

  from jax.sharding import Mesh
  from jaxtyping import Array

  from spectral_jax._types import Config, Scalar

# Keywords that the step itself supplies, or that shape the output rather than the objective.
RESERVED = ("u", "v", "labels", "where", "reduction", "temperature", "axis_name", "log_average")

# Arguments that the trainer learns with the network where a loss has them, as its paper does (SigLIP, arXiv
# 2303.15343).
LEARNABLE = {"sigmoid": ("temperature", "bias")}

# Images of a device from which the ring is faster than the compiler's own partition of the dense form, measured on CPU
# by benchmarks/losses.py: fewer do not pay for the hops.
RING_IMAGES = 128

CROSS_ENTROPY = "cross_entropy"
# Below this, unit rows' similarities over the temperature leave float32's range of exponents of differences.
SMALLEST_TEMPERATURE = 1e-3


class Objective(NamedTuple):
  """What a learner minimizes.

  `init(key, width, examples) -> (params, memory)`: the parameters that the objective owns, trained with the network's,
  and what it remembers of each training example, `{}` for most: cross-entropy owns a head, the sigmoid loss its
  temperature and bias; the global objective remembers two averages of each example.
  `loss(params, memory, (u, v), batch, temperature) -> (scalar, memory)`; `batch` has "index" and "labels" `(b,)`.
  """
  init: Callable
  loss: Callable


def loss_names() -> list[str]:
  """Names of the functions of `spectral_jax.losses` that take two views."""
  functions = {name: getattr(losses, name) for name in losses.__all__}
  return [name for name, f in functions.items()
          if callable(f) and list(_parameters(f))[:2] == ["u", "v"]]


def objective_names() -> list[str]:
  """What `config.loss.name` may be: the losses of two views, and cross-entropy with labels."""
  return [*loss_names(), CROSS_ENTROPY]


def make_objective(config: Config, mesh: Mesh | None = None, batch_size: int = 0, num_classes: int = 1) -> Objective:
  """Returns the `Objective` of `config.loss`, or of one learner's section.

  On a mesh of several devices that hold `RING_IMAGES` or more each, batches go round the ring of `losses.sharded`;
  smaller ones are left to the compiler, which then gathers one view and computes the dense form. The value is the same.

  Raises:
    ConfigError: an unknown loss or keyword, naming the nearest right one; a temperature that no run could use.
  """
  check_name("loss.name", config.name, objective_names())
  if config.name == CROSS_ENTROPY:
    _check_keywords(config, ())
    return cross_entropy(num_classes)
  function = getattr(losses, config.name)
  names = _parameters(function)
  learnable = LEARNABLE.get(config.name, ())
  keywords = _check_keywords(config, [name for name in names if name not in RESERVED] + ["learn"] * bool(learnable))
  learned = _learned(config.name, keywords.pop("learn", learnable), learnable)
  devices = 1 if mesh is None else mesh.shape["data"]
  if mesh is not None and devices > 1 and batch_size >= devices * RING_IMAGES:
    function = losses.sharded(function, mesh, axis="data")

  remembers = "log_average" in names

  def init(key, width, examples):
    # The temperature is an argument of the step, so what is learned is a factor of it.
    begin = {"temperature": ("log_factor", 0.0), "bias": ("bias", keywords.get("bias", _default(function, "bias")))}
    params = {own: jnp.float32(value) for own, value in (begin[name] for name in learned)}
    return params, {"log_average": jnp.full((examples, 2), -jnp.inf)} if remembers else {}

  def loss(params, memory, embeddings, batch, temperature):
    labels = (batch["labels"],) if "labels" in names else ()
    own = learned_values(params, temperature)
    tempered = {"temperature": own.pop("temperature", temperature)} if "temperature" in names else {}
    arguments = {**keywords, **tempered, **own}
    if not remembers:
      return function(*embeddings, *labels, **arguments), memory
    averages = memory["log_average"]
    value, rows = function(*embeddings, averages[batch["index"]], **arguments)
    return value, {"log_average": averages.at[batch["index"]].set(rows)}

  return Objective(init, loss)


def learned_values(params: Mapping[str, Array], temperature: Scalar) -> dict[str, Any]:
  """`{"temperature": ..., "bias": ...}`, those of them that an objective with `params` learns; `{}` for most.

  Args:
    params: what the objective owns.
    temperature: the one that it began with.
  """
  found = {}
  if "log_factor" in params:
    found["temperature"] = temperature * jnp.exp(params["log_factor"])
  if "bias" in params:
    found["bias"] = params["bias"]
  return found


def _learned(name, asked, learnable):
  """The arguments to learn; () learns none."""
  names = (asked,) if isinstance(asked, str) else asked
  if not isinstance(names, (tuple, list)) or any(one not in learnable for one in names):
    raise ConfigError(f"config.loss.kwargs has learn={asked!r}, but {name} learns "
                      f"{' and '.join(map(repr, learnable))}; () learns none")
  return tuple(names)


def _default(function, name):
  own = _parameters(function).get(name)
  return 0.0 if own is None else own.default


def cross_entropy(num_classes: int) -> Objective:
  """Classification by a linear head on the projector's output, the mean over both views.

  The head sits where every other objective looks, so that all learners of a coupled run train the same network.
  """
  def init(key, width, examples):
    kernel = jax.random.normal(key, (width, num_classes)) / math.sqrt(width)
    return {"head": {"kernel": kernel, "bias": jnp.zeros(num_classes)}}, {}

  def loss(params, memory, embeddings, batch, temperature):
    head = params["head"]
    of_view = lambda z: jnp.mean(optax.softmax_cross_entropy_with_integer_labels(
        z @ head["kernel"] + head["bias"], batch["labels"]))
    return sum(map(of_view, embeddings)) / 2, memory

  return Objective(init, loss)


def _check_keywords(config, allowed):
  """The keywords that `config.kwargs` sets, kernels made of their names; also checks the temperature."""
  keywords = {key: _kernel_or_value(value) for key, value in (config.kwargs or {}).items()}
  for key in keywords:
    if key not in allowed:
      takes = f"It takes {', '.join(map(repr, allowed))}." if allowed else "It takes none."
      raise ConfigError(f"config.loss.kwargs has {key!r}, which {config.name} does not take.{nearest(key, allowed)} "
                        f"{takes}")
  if config.temperature is not None:
    if config.name == CROSS_ENTROPY or "temperature" not in _parameters(getattr(losses, config.name)):
      raise ConfigError(f"{config.name} has no temperature; leave config.loss.temperature unset")
    if not SMALLEST_TEMPERATURE <= config.temperature < math.inf:
      raise ConfigError(f"config.loss.temperature must be positive, at least {SMALLEST_TEMPERATURE} and finite, "
                        f"got {config.temperature}; 0.05 to 1 is usual")
  return keywords


def temperature_of(config: Config) -> float:
  """The temperature at which `config.loss` works; for a loss without one, that of InfoNCE's default."""
  if config.temperature is not None:
    return config.temperature
  own = {} if config.name == CROSS_ENTROPY else _parameters(getattr(losses, config.name))
  return own.get("temperature", _parameters(losses.info_nce)["temperature"]).default


def _parameters(function):
  return inspect.signature(function).parameters


def _kernel_or_value(value):
  """A kernel is written as in Python, 'gaussian(2.0)': a config holds no functions."""
  call = re.fullmatch(r"(\w+)\((.*)\)", value) if isinstance(value, str) else None
  if call is None:
    return value
  name, argument = call.groups()
  kernels = [k for k in vars(losses.kernels) if inspect.isfunction(getattr(losses.kernels, k)) and k[0] != "_"]
  check_name("loss.kwargs kernel", name, kernels)
  try:
    numbers = [float(argument)] if argument.strip() else []
  except ValueError:
    raise ConfigError(f"config.loss.kwargs has the kernel {value!r}; write a number in its brackets, "
                      f"as in '{name}(2.0)'") from None
  return getattr(losses.kernels, name)(*numbers)


def check_objective(config: Config) -> None:
  """Raises ConfigError for a loss whose keywords cannot work together; evaluates shapes only."""
  objective = make_objective(config)
  embeddings = jax.ShapeDtypeStruct((4, 3), jnp.float32)
  batch = {name: jax.ShapeDtypeStruct((4,), jnp.int32) for name in ("index", "labels")}
  try:
    params, memory = jax.eval_shape(lambda: objective.init(jax.random.key(0), 3, 8))
    jax.eval_shape(objective.loss, params, memory, (embeddings, embeddings), batch, temperature_of(config))
  except (TypeError, ValueError) as error:
    raise ConfigError(f"config.loss.kwargs={dict(config.kwargs or {})} does not fit {config.name}: {error}") from error


def make_whitening(config: Config) -> Callable[..., Any]:
  """Returns `whiten(u, v) -> (u, v)` for `config.whitening`: statistics over both views of the global batch."""
  check_name("whitening.method", config.method, ("", "zca", "cholesky", "newton_schulz"))
  if not 0 <= config.shrinkage <= 1:
    raise ConfigError(f"config.whitening.shrinkage must lie in [0, 1], got {config.shrinkage}")
  if not config.method:
    return lambda u, v: (u, v)

  def whiten(u, v):
    both = spectrum.whiten(jnp.concatenate([u, v]), method=config.method, shrinkage=config.shrinkage)
    return tuple(jnp.split(both, 2))

  return whiten


def learner_sections(config: Config) -> dict[str, Config]:
  """The sections `{name: loss}` of a run's learners: `config.learners`, what they leave None from `config.loss`.

  Without any the run has one, "main", with `config.loss` itself.
  """
  if not config.learners:
    return {"main": config.loss}
  sections = {}
  for name, section in config.learners.items():
    section = section.copy_and_resolve_references()
    takes = section.name in loss_names() and "temperature" in _parameters(getattr(losses, section.name))
    if section.temperature is None and takes:
      section.temperature = config.loss.temperature
    sections[name] = section
  return sections
