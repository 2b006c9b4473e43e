"""ImageNet: 1.28 million training and 50,000 validation images in 1,000 classes, streamed.

  python -m spectral_jax.main --config=configs/imagenet1k.py --config.data.data_dir=FOLDER_OF_TFDS

From folders of JPEG files: --config.data.name=folder --config.data.data_dir=FOLDER (train/WNID/*, test/WNID/*).
SimCLR's settings (arXiv 2002.05709, section 2.2 and appendix B) for 100 epochs. Batches of 4,096 ask for several
accelerators, or for --config.microbatches on fewer.

Hardware: 32 accelerators of 16 GB. Time and accuracy: not yet measured. SimCLR's authors state about 64.5% linear for
theirs, 6 hours on 32 TPU v3 (github.com/google-research/simclr, README), and 69.3% after 1,000 epochs (arXiv
2002.05709).
"""

from spectral_jax.defaults import get_defaults


def get_config(arg=None):
  del arg
  config = get_defaults()
  config.batch_size = 4096
  config.epochs = 100
  config.data.name = "imagenet2012"
  config.data.image_size = 224
  config.data.path = "stream"
  config.augment.crop_scale = (0.08, 1.0)
  config.augment.jitter_strength = 1.0
  config.augment.blur_prob = 0.5
  config.model.encoder = "resnet50"
  config.model.stem = "imagenet"
  config.model.projector_hidden = 2048
  config.model.dtype = "bfloat16"
  config.loss.temperature = 0.1
  config.optimizer.name = "lars"
  config.optimizer.learning_rate = 0.3
  config.optimizer.weight_decay = 1e-6
  config.diagnostics_every = 50
  config.log_every = 50
  config.checkpoint.every_steps = 1000
  return config
