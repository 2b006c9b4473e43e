"""Defaults of the losses, for what goes with them: gradients, bounds and optima. The losses' signatures are the one place."""

import inspect

from spectral_jax import losses


def temperature_of(loss, temperature):
  """Returns `temperature`, or where it is None the default of `losses.<loss>`, None if that has no temperature."""
  if temperature is not None:
    return temperature
  parameter = inspect.signature(getattr(losses, loss)).parameters.get("temperature")
  return parameter and parameter.default
