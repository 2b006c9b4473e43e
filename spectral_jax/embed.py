"""Features of any images by a trained encoder, and its variables for other programs.

  python -m spectral_jax.embed WORKDIR --out=features.npz [--data=FOLDER | --data=tfds:NAME | --data=digits]
      [--split=test] [--data_dir=DIR] [--step=best] [--learner=NAME] [--batch_size=256] [--skip_undecodable]
  python -m spectral_jax.embed WORKDIR --export=encoder.safetensors

Without --data the images are those of the run's own data set. The file has `features` (n, f) float32, the representation
before the projector, `labels` (n,) int32 (-1: none), `names` (n,) and `class_names`. Of a folder all images below it are
taken, a class being the name of the folder that an image lies in. --export writes the variables of encoder and projector,
named as in Flax with dots, and the config of the model beside them.
"""

import json
import os
import pathlib

from absl import flags

from spectral_jax import command
from spectral_jax._errors import ConfigError

OUT = flags.DEFINE_string("out", None, "The .npz file that features go to.")
DATA = flags.DEFINE_string("data", None, "A folder of images, tfds:NAME, or another name that config.data.name takes.")
DATA_DIR = flags.DEFINE_string("data_dir", "", "Where TensorFlow Datasets has prepared its data; '': its default folder.")
SPLIT = flags.DEFINE_enum("split", "test", ["train", "test"], "Which part of a data set; a folder is taken whole.")
STEP = flags.DEFINE_string("step", "best", "Of which checkpoint: best, last, or a number of updates.")
LEARNER = flags.DEFINE_string("learner", None, "Of several learners, which; by default the main one.")
BATCH_SIZE = flags.DEFINE_integer("batch_size", 256, "Images encoded at a time.", lower_bound=1)
SKIP = flags.DEFINE_bool("skip_undecodable", False, "Leave images out that cannot be decoded, instead of stopping.")
EXPORT = flags.DEFINE_string("export", None, "The .safetensors file that the variables go to.")


def main(words):
  if len(words) != 1:
    raise ConfigError(f"give one workdir, as in `python -m spectral_jax.embed runs/digits --out=features.npz`; got {words}")
  if not (OUT.value or EXPORT.value):
    raise ConfigError("nothing to do: give --out=features.npz for features, --export=encoder.safetensors for variables")
  # After the flags: a wrong one is answered at once.
  from spectral_jax.encoder import read_network
  from spectral_jax.workdir.folder import disk_errors, read_config
  for path, suffix in ((OUT.value, ".npz"), (EXPORT.value, ".safetensors")):
    _check_path(path, suffix)
  config = read_config(words[0])
  step = int(STEP.value) if STEP.value.isdigit() else STEP.value
  variables, step = read_network(words[0], config, step=step, learner=LEARNER.value)
  if EXPORT.value:
    with disk_errors(EXPORT.value):
      export(EXPORT.value, variables, config, step)
    print(f"Written: {EXPORT.value}, the variables of step {step}")
  if OUT.value:
    found = embed(config, variables, DATA.value, data_dir=DATA_DIR.value, part=SPLIT.value, batch_size=BATCH_SIZE.value,
                  skip_undecodable=SKIP.value)
    with disk_errors(OUT.value):
      save(OUT.value, found)
    print(f"Written: {OUT.value}, features of {len(found['labels']):,} images in {found['features'].shape[1]} dimensions, "
          f"by the encoder of step {step}")


def embed(config, variables, data=None, *, data_dir="", part="test", batch_size=256, skip_undecodable=False):
  """Returns `features`, `labels`, `names` and `class_names` of a data set or a folder of images.

  Args:
    config: of the run, as `read_config` gives it.
    variables: of its network.
    data: a folder, "tfds:NAME", a name that `config.data.name` takes, or None: the run's own data set.
    data_dir: as `config.data.data_dir`, for a data set by name.
    part: "train" or "test" of a data set by name.
    batch_size: images encoded at a time.
    skip_undecodable: leave such images out, instead of an error.
  """
  import jax
  import jax.numpy as jnp
  import numpy as np

  from spectral_jax.evaluation import split_features
  from spectral_jax.mesh import make_mesh
  from spectral_jax.models import build_model

  model = build_model(config.model)
  channels = _channels(model, variables, config.data.image_size)
  split, names, class_names = _open(config, data, data_dir, part, channels, skip_undecodable)
  encode = jax.jit(lambda variables, images: model.apply(variables, images.astype(jnp.float32) / 255, train=False))
  features, _ = split_features(encode, variables, split, np.arange(split.size), batch_size=batch_size,
                               mesh=make_mesh(devices=jax.devices()[:1]))
  return {"features": np.asarray(features), "labels": split.labels.astype(np.int32), "names": np.array(names, str),
          "class_names": np.array(class_names, str)}


def _channels(model, variables, size):
  """Whether the network was trained on gray images or on colors: the number of channels that its first layer takes."""
  import jax
  import jax.numpy as jnp
  from flax.errors import ScopeParamShapeError
  try:
    jax.eval_shape(lambda: model.apply(variables, jnp.zeros((1, size, size, 1)), train=False))
  except ScopeParamShapeError:
    return 3
  return 1


def _open(config, data, data_dir, part, channels, skip_undecodable):
  """The split to embed, its images' names and its classes."""
  from spectral_jax.data import open_dataset
  from spectral_jax.data.dataset import with_channels
  from spectral_jax.data.folder import open_images

  skips = "skip" if skip_undecodable else config.data.on_undecodable
  folder = pathlib.Path(data).expanduser() if data and not data.startswith("tfds:") else None
  if folder and (folder.is_dir() or os.sep in data):
    return open_images(str(folder), image_size=config.data.image_size, channels=channels, on_undecodable=skips)
  section = config.data.copy_and_resolve_references()
  section.on_undecodable = skips
  if data:
    section.update(name=data.removeprefix("tfds:"), data_dir=data_dir, classes="")
  elif data_dir:
    section.data_dir = data_dir
  opened = open_dataset(section)
  split = getattr(opened, part)
  if split.channels > channels and split.resident:
    raise ConfigError(f"{opened.name} has colors and the encoder was trained on gray images; give a folder of images, "
                      "which are converted")
  return with_channels(split, channels), [f"{part}/{i}" for i in range(split.size)], opened.class_names


def export(path, variables, config, step):
  """Writes variables as safetensors, `params.encoder.conv1.kernel` and so on; `metadata` has the model's config."""
  try:
    from safetensors.numpy import save_file
  except ModuleNotFoundError as error:
    raise ConfigError("--export writes safetensors; install the extra: pip install 'spectral_jax[safetensors]'") from error
  import numpy as np

  from spectral_jax.workdir.folder import flat
  arrays = {name: np.ascontiguousarray(array) for name, array in flat(variables).items() if not isinstance(array, dict)}
  metadata = {"model": json.dumps(config.model.to_dict()), "image_size": str(config.data.image_size), "step": str(step)}
  part = f"{path}.part"
  save_file(arrays, part, metadata)
  os.replace(part, path)


def save(path, arrays):
  """Writes an .npz file whole or not at all."""
  import numpy as np
  part = f"{path}.part"
  with open(part, "wb") as file:
    np.savez(file, **arrays)
  os.replace(part, path)


def _check_path(path, suffix):
  """Found out before minutes of work: a name or a folder that cannot be written."""
  if path is None:
    return
  if not path.endswith(suffix):
    raise ConfigError(f"--{'out' if suffix == '.npz' else 'export'}={path} must end in {suffix}")
  folder = pathlib.Path(path).absolute().parent
  if not folder.is_dir():
    raise ConfigError(f"{folder} is not a folder, so {path} cannot be written; make it or name another")


if __name__ == "__main__":
  command.run_on_workdirs(main)
