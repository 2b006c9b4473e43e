"""TensorFlow, imported where tf.data is needed and nowhere else."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

if TYPE_CHECKING:
  from types import ModuleType


def import_tensorflow(why: str) -> ModuleType:
  """The TensorFlow module, kept off the accelerators; without it, an error that names the extra."""
  os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")  # it says on every start how it was built
  try:
    import tensorflow as tf
  except ImportError as error:
    raise ImportError(f"{why} needs TensorFlow; install the tf extra: pip install 'spectral_jax[tf]'") from error
  tf.config.set_visible_devices([], "GPU")
  return tf
