"""TensorFlow, imported where tf.data is needed and nowhere else."""

from __future__ import annotations

from typing import TYPE_CHECKING

from spectral_jax._errors import ConfigError

if TYPE_CHECKING:
  from types import ModuleType


def import_tensorflow(why: str) -> ModuleType:
  """The TensorFlow module, kept off the accelerators; without it, a ConfigError that names the extra."""
  try:
    import tensorflow as tf
  except ModuleNotFoundError as error:  # one that is there and fails to load says why itself
    raise ConfigError(f"{why} needs TensorFlow; install the tf extra: pip install 'spectral_jax[tf]'") from error
  tf.config.set_visible_devices([], "GPU")
  return tf
