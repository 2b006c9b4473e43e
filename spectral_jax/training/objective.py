"""From the config's `loss` and `whitening` to one function of two views' embeddings and the labels."""

import inspect
import re

import jax.numpy as jnp

from spectral_jax import losses, spectrum
from spectral_jax._names import check_name, nearest

# Keywords that the step itself supplies, or that shape the output rather than the objective.
RESERVED = ("u", "v", "labels", "where", "reduction", "temperature", "axis_name")

# Images of a device from which the ring is faster than the compiler's own partition of the dense form, measured on CPU by
# benchmarks/losses.py: fewer do not pay for the hops.
RING_IMAGES = 128

_INFO_NCE_TEMPERATURE = inspect.signature(losses.info_nce).parameters["temperature"]


def loss_names():
  """Names of the functions of `spectral_jax.losses` that take two views."""
  functions = {name: getattr(losses, name) for name in losses.__all__}
  return [name for name, f in functions.items()
          if inspect.isfunction(f) and list(inspect.signature(f).parameters)[:2] == ["u", "v"]]


def make_objective(config, mesh=None, batch_size=0):
  """Returns `objective(u, v, labels) -> scalar` for `config.loss`.

  On a mesh of several devices that hold `RING_IMAGES` or more each, batches go round the ring of `losses.sharded`; smaller
  ones are left to the compiler, which then gathers one view and computes the dense form. The value is the same.

  Raises:
    ValueError: an unknown loss or keyword, naming the nearest right one.
  """
  check_name("loss.name", config.name, loss_names())
  function = getattr(losses, config.name)
  keywords = loss_keywords(function, config)
  takes_labels = "labels" in inspect.signature(function).parameters
  devices = 1 if mesh is None else mesh.shape["data"]
  if devices > 1 and batch_size >= devices * RING_IMAGES:
    function = losses.sharded(function, mesh, axis="data")
  if takes_labels:
    return lambda u, v, labels: function(u, v, labels, **keywords)
  return lambda u, v, labels: function(u, v, **keywords)


def loss_keywords(function, config):
  """Returns the keywords that `config.loss` sets, checked against the loss's signature."""
  allowed = [name for name in inspect.signature(function).parameters if name not in RESERVED]
  keywords = {key: _kernel_or_value(value) for key, value in config.kwargs.items()}
  for key in keywords:
    if key not in allowed:
      raise ValueError(
          f"config.loss.kwargs has {key!r}, which {config.name} does not take.{nearest(key, allowed)} "
          f"It takes {', '.join(map(repr, allowed))}.")
  if config.temperature is not None:
    if "temperature" not in inspect.signature(function).parameters:
      raise ValueError(f"{config.name} has no temperature; leave config.loss.temperature unset")
    if not config.temperature > 0:
      raise ValueError(f"config.loss.temperature must be positive, got {config.temperature}")
    keywords["temperature"] = config.temperature
  return keywords


def temperature_of(config):
  """The temperature at which `config.loss` works; for a loss without one, that of InfoNCE's default."""
  if config.temperature is not None:
    return config.temperature
  return inspect.signature(getattr(losses, config.name)).parameters.get("temperature", _INFO_NCE_TEMPERATURE).default


def _kernel_or_value(value):
  """A kernel is written as in Python, 'gaussian(2.0)': a config holds no functions."""
  call = re.fullmatch(r"(\w+)\(([-+.\deE]*)\)", value) if isinstance(value, str) else None
  if call is None:
    return value
  name, argument = call.groups()
  kernels = [k for k in vars(losses.kernels) if inspect.isfunction(getattr(losses.kernels, k)) and k[0] != "_"]
  check_name("loss.kwargs kernel", name, kernels)
  return getattr(losses.kernels, name)(*([float(argument)] if argument else []))


def make_whitening(config):
  """Returns `whiten(u, v) -> (u, v)` for `config.whitening`: statistics over both views of the global batch."""
  check_name("whitening.method", config.method, ("", "zca", "cholesky", "newton_schulz"))
  if not config.method:
    return lambda u, v: (u, v)

  def whiten(u, v):
    both = spectrum.whiten(jnp.concatenate([u, v]), method=config.method, shrinkage=config.shrinkage)
    return jnp.split(both, 2)

  return whiten
