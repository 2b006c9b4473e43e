"""Every key that a run knows, with its default. A config file changes what differs; an unknown key is an error.

Empty strings, zeros and None mean "choose for me", as the comment beside each says.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ml_collections import config_dict

if TYPE_CHECKING:
  from typing import Any

  from spectral_jax._types import Config



def get_defaults() -> Config:
  """Returns the complete, locked config that every file in this folder starts from."""
  config = config_dict.ConfigDict()
  config.seed = 0
  config.batch_size = 256
  config.epochs = 100
  config.steps = 0                     # > 0: train that many steps whatever `epochs` says
  config.init_from = ""                # a workdir whose network this run starts from; "": a fresh initialization
  config.init_step = "best"            # of its checkpoints: "best", "last" or a number of steps
  config.init_part = "network"         # or "encoder": the projector begins anew
  config.microbatches = 1              # > 1: encode the batch in that many pieces; the loss still sees all of it
  config.model_parallel = 1            # devices along the mesh's "model" axis, for a wide projector
  config.sharding = (("projector.*kernel", "columns"),)  # where arrays lie, by name: see mesh.state_shardings
  config.log_every = 10                # steps between lines of metrics.jsonl
  config.diagnostics_every = 10        # steps between gradient bands and ranks; 0: never
  config.eval_every_epochs = 10        # epochs between in-training kNN evaluations; 0: only at the end
  config.data = _data()
  config.augment = _augment()
  config.model = _model()
  config.whitening = config_dict.create(
      method="",                       # "", "zca", "cholesky" or "newton_schulz", on the projector's output
      shrinkage=1e-3)
  config.loss = config_dict.create(
      name="nt_xent",                  # any loss of spectral_jax.losses, or "cross_entropy"
      temperature=config_dict.placeholder(float),  # None: the loss's own default
      kwargs=config_dict.create())     # its other keywords, e.g. --config.loss.kwargs="{'kernel': 'gaussian(2.0)'}"
  config.learners = config_dict.create()  # {name: loss section}: several learners on the same views; see `learner`
  config.main_learner = ""             # of several, the one whose accuracy chooses the best checkpoint; "": by alphabet
  config.optimizer = config_dict.create(
      name="sgd",                      # "sgd", "lars" or "adamw"
      learning_rate=0.1,               # per 256 images
      scale_with_batch=True,
      batch_scaling="linear",          # or "sqrt": how it grows with the batch
      weight_decay=1e-4,
      momentum=0.9,
      warmup_epochs=10,
      warmup_steps=config_dict.placeholder(int))  # instead of warmup_epochs
  config.checkpoint = config_dict.create(
      every_steps=500,
      keep=3)                          # the last so many, and the best
  config.selection = _selection()
  config.bank = config_dict.create(
      refresh_epochs=10,               # epochs that an embedding bank serves; making one costs a sixth of an epoch
      dtype="float32",
      momentum=0.0)                    # > 0: embeddings of the encoder's moving average, e.g. 0.99
  config.eval = config_dict.create(
      batch_size=512,
      knn_k=20,
      train_limit=0,                   # > 0: only so many training examples, evenly spread, are scored with
      test_limit=0,                    # > 0: the same for the test set
      knn_limit=50_000,                # training examples that in-training kNN looks at
      baseline_limit=50_000,           # training examples that raw pixels and the random encoder are scored with
      probe_c=1.0,                     # inverse L2 strength of the probes, as scikit-learn's C
      probe_steps=300,                 # most L-BFGS steps of the linear probe
      shots=5,
      shot_draws=50,                   # random draws that the k-shot accuracy averages
      shot_steps=60)
  return config.lock()


def learner(name: str, *, temperature: float | None = None, **kwargs: Any) -> Config:
  """A loss section for `config.learners`; without a temperature it takes that of `config.loss`."""
  section = config_dict.create(name=name, temperature=config_dict.placeholder(float),
                               kwargs=config_dict.create(**kwargs))
  section.temperature = temperature
  return section


def learners(**sections: Config) -> Config:
  """The section `config.learners` of named loss sections."""
  return config_dict.create(**sections)


def _data():
  return config_dict.create(
      name="digits",                   # "digits", "mnist5k", "folder" or any name that TensorFlow Datasets knows
      data_dir="",
      image_size=8,
      path="auto",                     # "resident", "stream", or by size
      test_fraction=0.2,               # held out where a data set has no test split
      classes="",                      # "10": only ten of them; "imagenet100": those hundred
      on_undecodable="error")          # or "skip": leave undecodable files out and count them


def _augment():
  return config_dict.create(
      crop_scale=(0.2, 1.0),           # area of the random resized crop; (): no crop
      flip=True,
      jitter_strength=0.5,
      jitter_prob=0.8,
      gray_prob=0.2,
      blur_prob=0.0,
      solarize_prob=0.0,
      affine=config_dict.create(       # half-widths; 0 leaves a transformation out
          rotation_deg=0.0,
          scale=0.0,
          shear=0.0,
          shift=0.0))                  # as a share of the image's side


def _model():
  return config_dict.create(
      encoder="resnet18",              # "convnet", "resnet18", "resnet34", "resnet50", "vit_ti", "vit_s" or "vit_b"
      stem="cifar",                    # or "imagenet"; of ResNets
      patch_size=16,                   # pixels a side; of ViTs
      width=1.0,
      remat=False,                     # compute the blocks anew in the backward pass: less memory, a third more time
      projector_layers=2,
      projector_hidden=512,
      projector_dim=128,
      dtype="float32")                 # compute; parameters and statistics stay float32


def _selection():
  return config_dict.create(
      rule="random",                   # "random", "greedy", "pool", "log_det", "hard", "submodular", "spectral",
                                       # "cluster", "gcbs", "b3", "jest" or "file": docs/selection.md
      coverage="balanced",             # or "oversampled", "independent"
      candidates=64,                   # looked at for each element; 0: all that are left
      objective="max",
      target=config_dict.placeholder(float),  # share of the largest possible rank to aim at; None: no target
      policy="P3",
      pools=16,
      superbatch=16,                   # balanced: batches grown together
      oversample=2,                    # oversampled: examples that a batch is chosen from, in batches
      center=False,
      clusters=10,                     # "cluster": of k-means
      neighbors=config_dict.placeholder(int),     # in the graph; None: 16 for "gcbs", 32 for "spectral", 100 for "b3"
      skip=30,                         # "b3": nearest neighbors left out as likely positives
      cluster_size=config_dict.placeholder(int),  # "b3": of a community; None: 32 where it divides the batch
      queries=config_dict.placeholder(int),       # "submodular": examples that ask; None: an eighth of the batch
      temperature=0.1,                 # of the loss that "submodular", "spectral" and "jest" look at
      ceiling=0.95,                    # "submodular": cosine above which a pair is a likely positive
      chunks=16,                       # "jest": parts that a batch is drawn in
      reference="",                    # "jest": a file with a reference model's embeddings, a row a training image
      table="")                        # "file": your own index table
