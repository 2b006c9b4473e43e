"""ImageNet-100: the 100 classes of Tian et al. 2019 (arXiv 1906.05849), about 127,000 training images, streamed.

  python -m spectral_jax.main --config=configs/imagenet100.py --config.data.data_dir=FOLDER_OF_TFDS

The classes are taken out of imagenet2012; or name a folder that holds only them: --config.data.name=folder
--config.data.data_dir=FOLDER (train/WNID/*, test/WNID/*).

Hardware: 8 accelerators of 16 GB. Time and accuracy: not yet measured.
"""

from spectral_jax.config import load_config


def get_config(arg=None):
  del arg
  config = load_config("imagenet1k")
  config.batch_size = 1024
  config.epochs = 200
  config.data.classes = "imagenet100"
  config.loss.temperature = 0.2
  return config
