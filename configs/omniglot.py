"""242 handwritten characters of Omniglot, 14x14 pixels: 3,630 drawings to train on, 1,210 by other people to test with.

  curl -LO https://github.com/brendenlake/omniglot/raw/master/python/images_background.zip
  python benchmarks/omniglot.py images_background.zip data/omniglot
  python -m spectral_jax.main --config=configs/omniglot.py

A batch holds 32 images, far fewer than there are classes, and no figure is near its ceiling: the set on which rules of
selection are compared (docs/results.md). Hardware: 2 CPU cores, about a minute of
training. Random batches, mean of seeds 10 to 14: linear 61.2%, five labels a class 45.1%, nearest neighbors 43.1%.
"""

from spectral_jax.defaults import get_defaults


def get_config(arg=None):
  del arg
  config = get_defaults()
  config.batch_size = 32
  config.epochs = 16
  config.eval_every_epochs = 2
  config.diagnostics_every = 50
  config.data.name = "folder"
  config.data.data_dir = "data/omniglot"
  config.data.image_size = 14
  config.augment.crop_scale = ()
  config.augment.flip = False          # a mirrored character is another
  config.augment.jitter_strength = 0.0
  config.augment.gray_prob = 0.0
  config.augment.affine.rotation_deg = 15.0
  config.augment.affine.scale = 0.2
  config.augment.affine.shear = 0.2
  config.augment.affine.shift = 0.1
  config.model.encoder = "convnet"
  config.model.width = 0.5             # a run of half a minute of one core, so that many can be compared
  config.model.projector_hidden = 256
  config.loss.temperature = 0.1        # at .5 embeddings use half as many dimensions, and rules differ less
  config.optimizer.name = "adamw"
  config.optimizer.learning_rate = 3e-3
  config.optimizer.batch_scaling = "sqrt"
  config.optimizer.warmup_epochs = 2
  config.checkpoint.every_steps = 1000
  config.eval.knn_k = 5                # of 15 drawings of each character
  config.eval.probe_steps = 60
  config.eval.shot_draws = 2
  config.eval.shot_steps = 30
  config.bank.refresh_epochs = 1
  return config
