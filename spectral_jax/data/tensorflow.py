"""TensorFlow, imported where tf.data is needed and nowhere else."""


def import_tensorflow(why):
  """The TensorFlow module, kept off the accelerators; without it, an error that names the extra."""
  try:
    import tensorflow as tf
  except ImportError as error:
    raise ImportError(f"{why} needs TensorFlow; install the tf extra: pip install 'spectral_jax[tf]'") from error
  tf.config.set_visible_devices([], "GPU")
  return tf
