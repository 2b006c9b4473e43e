"""STL-10: 5,000 labeled training and 8,000 test images of 96x96 pixels.

  python -m spectral_jax.main --config=configs/stl10.py [--config.data.data_dir=FOLDER_OF_TFDS]

Hardware: one accelerator of 16 GB or more. Time and accuracy: not yet measured.
"""

from spectral_jax.defaults import get_defaults


def get_config(arg=None):
  del arg
  config = get_defaults()
  config.batch_size = 256
  config.epochs = 500
  config.data.name = "stl10"
  config.data.image_size = 96
  config.augment.crop_scale = (0.2, 1.0)
  config.augment.blur_prob = 0.5
  config.model.encoder = "resnet18"
  config.model.projector_hidden = 512
  config.model.dtype = "bfloat16"
  config.loss.temperature = 0.5
  config.optimizer.name = "lars"
  config.optimizer.learning_rate = 0.6
  config.optimizer.weight_decay = 1e-6
  config.eval_every_epochs = 25
  return config
