"""Features of any images by a trained network, and its variables for other programs."""

from __future__ import annotations

import json
import os
import pathlib
from typing import TYPE_CHECKING

import jax
import jax.numpy as jnp
import numpy as np
from flax.errors import ScopeParamShapeError
from flax.traverse_util import flatten_dict

from spectral_jax._errors import ConfigError
from spectral_jax.data import open_dataset
from spectral_jax.data.dataset import with_channels
from spectral_jax.data.folder import open_images
from spectral_jax.evaluation import split_features
from spectral_jax.mesh import make_mesh
from spectral_jax.models import build_model, make_encode
from spectral_jax.workdir.folder import whole

if TYPE_CHECKING:
  from collections.abc import Mapping

  from jaxtyping import PyTree

  from spectral_jax._types import Config


def embed(config: Config, variables: PyTree, data: str | None = None, *, data_dir: str = "", part: str = "test",
          batch_size: int = 256, skip_undecodable: bool = False) -> dict[str, np.ndarray]:
  """Returns `features`, `labels`, `names`, `class_names` and `skipped` of a data set or a folder of images.

  Args:
    config: of the run, as `read_config` gives it.
    variables: of its network.
    data: a folder, "tfds:NAME", a name that `config.data.name` takes, or None: the run's own data set.
    data_dir: as `config.data.data_dir`, for a data set by name.
    part: "train" or "test" of a data set by name.
    batch_size: images encoded at a time.
    skip_undecodable: leave such images out, instead of an error; `skipped` has their names.
  """
  model = build_model(config.model)
  channels = _channels(model, variables, config.data.image_size)
  split, names, class_names = _open(config, data, data_dir, part, channels, skip_undecodable)
  features, _ = split_features(jax.jit(make_encode(model)), variables, split, np.arange(split.size),
                               batch_size=batch_size, mesh=make_mesh(devices=jax.devices()[:1]))
  return {"features": np.asarray(features), "labels": split.labels.astype(np.int32), "names": np.array(names, str),
          "class_names": np.array(class_names, str), "skipped": np.array(split.skipped, str)}


def _channels(model, variables, size):
  """Whether the network was trained on gray images or on colors: the number of channels that its first layer takes."""
  try:
    jax.eval_shape(lambda: model.apply(variables, jnp.zeros((1, size, size, 1)), train=False))
  except ScopeParamShapeError:
    return 3
  return 1


def _open(config, data, data_dir, part, channels, skip_undecodable):
  """The split to embed, its images' names and its classes."""
  skips = "skip" if skip_undecodable else config.data.on_undecodable
  folder = pathlib.Path(data).expanduser() if data and not data.startswith("tfds:") else None
  if folder and not folder.is_dir() and os.sep in data:
    raise ConfigError(f"config.data.name={data!r} is not a folder; name one with images in it or below it")
  if folder and folder.is_dir():
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


def export(path: str | pathlib.Path, variables: PyTree, config: Config, step: int) -> None:
  """Writes variables as safetensors, `params.encoder.conv1.kernel` and so on; "about" in their
  metadata has the model's config, the images' size and the step."""
  try:
    from safetensors.numpy import save_file
  except ModuleNotFoundError as error:
    raise ConfigError("--export writes safetensors; install the extra: pip install 'spectral_jax[safetensors]'"
                      ) from error
  arrays = {name: np.ascontiguousarray(array) for name, array in flatten_dict(variables, sep=".").items()}
  about = {"model": config.model.to_dict(), "image_size": config.data.image_size, "step": step}
  with whole(path) as part:
    save_file(arrays, part, {"about": json.dumps(about, sort_keys=True)})


def save(path: str | pathlib.Path, arrays: Mapping[str, np.ndarray]) -> None:
  """Writes an .npz file whole or not at all."""
  with whole(path) as part, open(part, "wb") as file:
    np.savez(file, **arrays)  # pyright: ignore[reportArgumentType]  # of names that are none of its own
