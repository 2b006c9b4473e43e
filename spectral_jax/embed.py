"""Features of any images by a trained encoder, and its variables for other programs.

  python -m spectral_jax.embed WORKDIR --out=features.npz [--data=FOLDER | --data=tfds:NAME | --data=digits]
      [--split=test] [--data_dir=DIR] [--step=best] [--learner=NAME] [--batch_size=256] [--skip_undecodable]
  python -m spectral_jax.embed WORKDIR --export=encoder.safetensors

Without --data the images are those of the run's own data set. The file has `features` (n, f) float32, the
representation before the projector, `labels` (n,) int32 (-1: none), `names` (n,), `class_names`, and `skipped`, the
images left out. Of a folder all images below it are taken; the class is the name of the folder that an image lies in.
--export writes the variables of encoder and projector, named as in Flax with dots, and the config of the model beside
them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from spectral_jax import command
from spectral_jax._errors import ConfigError
from spectral_jax.command import flags

if TYPE_CHECKING:
  from collections.abc import Sequence

OUT = flags.DEFINE_string("out", None, "The .npz file that features go to.")
DATA = flags.DEFINE_string("data", None, "A folder of images, tfds:NAME, or another name that config.data.name takes.")
DATA_DIR = flags.DEFINE_string(
    "data_dir", "", "Where TensorFlow Datasets has prepared its data; '': its default folder.")
SPLIT = flags.DEFINE_enum("split", "test", ["train", "test"], "Which part of a data set; a folder is taken whole.")
STEP = flags.DEFINE_string("step", "best", "Of which checkpoint: best, last, or a number of updates.")
LEARNER = flags.DEFINE_string("learner", None, "Of several learners, which; by default the main one.")
BATCH_SIZE = flags.DEFINE_integer("batch_size", 256, "Images encoded at a time.", lower_bound=1)
SKIP = flags.DEFINE_bool("skip_undecodable", False, "Leave images out that cannot be decoded, instead of stopping.")
EXPORT = flags.DEFINE_string("export", None, "The .safetensors file that the variables go to.")


def main(words: Sequence[str]) -> None:
  if len(words) != 1:
    raise ConfigError("give one workdir, as in `python -m spectral_jax.embed runs/digits --out=features.npz`; got "
                      f"{words}")
  if not (OUT.value or EXPORT.value):
    raise ConfigError("nothing to do: give --out=features.npz for features, --export=encoder.safetensors for variables")
  # After the flags: a wrong one is answered at once.
  from spectral_jax.embedding import embed, export, save
  from spectral_jax.encoder import read_network
  from spectral_jax.workdir.folder import check_place, disk_errors, read_config
  for flag, path, suffix in (("--out", OUT.value, ".npz"), ("--export", EXPORT.value, ".safetensors")):
    if path and not path.endswith(suffix):
      raise ConfigError(f"{flag}={path} must end in {suffix}")
    if path:  # found out before minutes of work
      check_place(flag, path)
  config = read_config(words[0])
  step = int(STEP.value) if STEP.value.isdigit() else STEP.value
  variables, step = read_network(words[0], config, step=step, learner=LEARNER.value)
  if EXPORT.value:
    with disk_errors(EXPORT.value):
      export(EXPORT.value, variables, config, step)
    print(f"Written: {EXPORT.value}, the variables of step {step}")
  if OUT.value:
    try:
      found = embed(config, variables, DATA.value, data_dir=DATA_DIR.value, part=SPLIT.value,
                    batch_size=BATCH_SIZE.value, skip_undecodable=SKIP.value)
    except ConfigError as error:
      raise ConfigError(_in_flags(str(error))) from error
    with disk_errors(OUT.value):
      save(OUT.value, found)
    skipped = found["skipped"]
    left_out = f"; {len(skipped):,} undecodable left out: {', '.join(skipped[:5])}" if len(skipped) else ""
    print(f"Written: {OUT.value}, features of {len(found['labels']):,} images in {found['features'].shape[1]} "
          f"dimensions, by the encoder of step {step}{left_out}")


def _in_flags(message):
  """A message about `config.data` in this command's flags, which are other ones than a run's."""
  for key, flag in (("--config.data.on_undecodable=skip", "--skip_undecodable"), ("config.data.data_dir", "--data_dir"),
                    ("config.data.name", "--data")):
    message = message.replace(key, flag)
  return message


if __name__ == "__main__":
  command.run_on_workdirs(main)
