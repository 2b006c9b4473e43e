"""CIFAR-10: 50,000 training and 10,000 test images of 32x32 pixels.

  python -m spectral_jax.main --config=configs/cifar10.py [--config.data.data_dir=FOLDER_OF_TFDS]

Without TensorFlow: --config.data.name=folder --config.data.data_dir=FOLDER, with train/CLASS/* and test/CLASS/* in it.

Hardware: one accelerator of 16 GB or more. 100 epochs took 131 s on one H200 and reached .771 by nearest neighbors and
.794 by the linear probe (seed 0, docs/performance.md).
Expected with 1,000 epochs of this ResNet-18 and batch: about 91% linear, as SimCLR's authors state for theirs
(github.com/google-research/simclr, README).
"""

from spectral_jax.defaults import get_defaults


def get_config(arg=None):
  del arg
  config = get_defaults()
  config.batch_size = 512
  config.epochs = 200
  config.data.name = "cifar10"
  config.data.image_size = 32
  config.augment.crop_scale = (0.08, 1.0)
  config.model.encoder = "resnet18"
  config.model.projector_hidden = 2048
  config.model.dtype = "bfloat16"
  config.loss.temperature = 0.5
  config.optimizer.name = "lars"
  config.optimizer.learning_rate = 1.0
  config.optimizer.weight_decay = 1e-6
  config.checkpoint.every_steps = 500
  return config
