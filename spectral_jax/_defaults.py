"""Defaults of the losses, for gradients, bounds and optima: read from the losses' signatures, the one place."""

import inspect

from spectral_jax import losses


def temperature_of(loss, temperature):
  """Returns `temperature`, or where it is None the default of `losses.<loss>`, None if that has no temperature."""
  if temperature is not None:
    return temperature
  parameter = inspect.signature(getattr(losses, loss)).parameters.get("temperature")
  return parameter and parameter.default
