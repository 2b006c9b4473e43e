"""Trained encoders, read back from a workdir: no data set is opened and no optimizer is built."""

from __future__ import annotations

import pathlib
from collections.abc import Mapping
from typing import TYPE_CHECKING

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer

from spectral_jax._arrays import is_array
from spectral_jax._errors import ConfigError
from spectral_jax._names import nearest
from spectral_jax.config import learner_names, main_name

if TYPE_CHECKING:
  from collections.abc import Callable

  from jaxtyping import Array, ArrayLike, Float, PyTree

  from spectral_jax._types import Config
  from spectral_jax.models import Model

try:
  from flax.errors import ScopeParamShapeError

  from spectral_jax.models import build_model, make_encode
  from spectral_jax.workdir import checkpoints
  from spectral_jax.workdir.folder import read_config
except ModuleNotFoundError as error:
  raise ImportError(f"reading a trained encoder needs {error.name}; install the train extra: "
                    "pip install 'spectral_jax[train]'") from error

# Float images may leave [0, 1] a little, as bicubic resizing makes them; farther out they are of another range.
LOWEST, HIGHEST = -0.5, 1.5


def load_encoder(workdir: str | pathlib.Path, *, step: int | str = "best",
                 learner: str | None = None) -> tuple[Callable[[PyTree, ArrayLike], Float[Array, "b f"]], PyTree]:
  """The trained encoder of a run, as a pure function and its variables.

  `features = encoder(images)`, the representation before the projector, with the running batch statistics.

  Args:
    workdir: the folder of a run.
    step: "best" (default; of the checkpoints, the one of best nearest-neighbor accuracy in training), "last", or the
      number of updates as an integer; the last few checkpoints and the best are kept.
    learner: of a run with several learners, which; None: the main one.

  Returns:
    `(apply, variables)`. `apply(variables, images)` takes `(b, h, w, c)` images, uint8 or floats in [0, 1], of the size
    and channels that the run was trained on, and returns `(b, f)` float32 features. An encoder that averages over
    positions takes other sizes too: ResNets all, a ConvNet sides of 5 to 8 and of 13 or more pixels. An image with NaN
    has NaN features. It is compiled for each shape and may be called under `jit`, `vmap` and `grad`. `variables` is
    `{"params": ..., "batch_stats": ...}`, arrays as Flax takes them, projector included.

  Raises:
    ConfigError: no such workdir, no checkpoint, a step or learner that is not there (those there are named), or a
      damaged config.json.
    RunError: the checkpoint is damaged or was written in another format.

  >>> import spectral_jax
  >>> apply, variables = spectral_jax.load_encoder("runs/digits")               # doctest: +SKIP
  >>> features = apply(variables, jax.numpy.zeros((4, 8, 8, 1), "uint8"))       # doctest: +SKIP
  """
  config = read_config(workdir)
  model, loaded = _built(config, read_network(workdir, config, step=step, learner=learner)[0])
  encode, size = make_encode(model), config.data.image_size
  program = jax.jit(lambda variables, images: encode(variables, images)[0])

  def apply(variables, images):
    _check(images)
    if not isinstance(variables, Mapping) or loaded.keys() - variables.keys():
      got = list(variables) if isinstance(variables, Mapping) else type(variables).__name__
      raise TypeError(f"variables must be a dictionary with {' and '.join(sorted(loaded))}, as load_encoder returns it "
                      f"beside apply; got {got}")
    try:
      return program(variables, images)
    except ScopeParamShapeError:
      raise ValueError(
          f"images of shape {np.shape(images)} do not fit the encoder of {workdir}, which was trained on images of "
          f"{size}x{size} pixels; give that size, and as many channels as it was trained on") from None

  return apply, loaded


def load_network(workdir: str | pathlib.Path, *, step: int | str = "best",
                 learner: str | None = None) -> tuple[Model, PyTree]:
  """The same as `(model, variables)`: the Flax module of encoder and projector, and its variables."""
  config = read_config(workdir)
  return _built(config, read_network(workdir, config, step=step, learner=learner)[0])


def _built(config, variables):
  return build_model(config.model), jax.tree.map(jnp.asarray, variables)


def read_network(workdir: str | pathlib.Path, config: Config, *, step: int | str = "best",
                 learner: str | None = None) -> tuple[PyTree, int]:
  """Returns the variables as NumPy arrays, and the step that they were saved at."""
  folder = pathlib.Path(workdir).expanduser().absolute()
  if not (folder / checkpoints.DIRECTORY).is_dir():
    raise ConfigError(f"{folder} holds no checkpoints; train the run until it has saved one")
  names = learner_names(config)
  name = learner or main_name(config)
  with checkpoints.open_checkpoints(folder, read_only=True) as manager:
    step = _existing(manager, folder, step)
    try:
      return checkpoints.network(manager, step, name), step
    except KeyError:
      raise ConfigError(f"learner={name!r} is not in {folder}.{nearest(name, names)} Learners there: "
                        f"{', '.join(map(repr, sorted(names)))}") from None
    except checkpoints.Damaged as error:
      others = [other for other in sorted(manager.all_steps()) if other != step]
      rest = f"other steps there: {_listed(others)}" if others else "it is the only one"
      raise checkpoints.Damaged(f"{error}; {rest}") from error


def _existing(manager, folder, step):
  """The number of the checkpoint that `step` asks for."""
  there = sorted(manager.all_steps())
  if not there:
    raise ConfigError(f"{folder} holds no checkpoints; train the run until it has saved one")
  if step == "last":
    return there[-1]
  if step == "best":
    found = checkpoints.best(manager)
    if found is None:
      raise ConfigError(f"no checkpoint of {folder} has been evaluated yet, so none is best; give step='last' or one "
                        f"of {_listed(there)}")
    return found[0]
  if isinstance(step, bool) or not isinstance(step, (int, np.integer)):
    raise ConfigError(f"step must be 'best', 'last' or an integer, got {step!r}")
  if step not in there:
    raise ConfigError(f"step={step} is not in {folder}; there are {_listed(there)}. Only the last few checkpoints and "
                      "the best are kept (config.checkpoint.keep)")
  return int(step)


def _listed(steps):
  return ", ".join(map(str, steps))


def _check(images):
  if not is_array(images):
    raise TypeError(f"images must be an array, got {type(images).__name__}; convert it with np.asarray")
  shape = np.shape(images)
  if len(shape) != 4:
    raise ValueError(f"images must be (b, h, w, c), got the shape {shape}; add the missing axes, as in images[None]")
  if 0 in shape[1:]:
    raise ValueError(f"images must have pixels and channels, got the shape {shape}")
  dtype = images.dtype
  floating = jnp.issubdtype(dtype, jnp.floating)
  if not floating and dtype != jnp.uint8:
    raise TypeError(f"images must be uint8 or floats in [0, 1], got {dtype}; convert them with astype")
  if floating and not isinstance(images, Tracer) and images.size:
    with jax.ensure_compile_time_eval():  # the caller may be tracing something else
      low, high = float(jnp.nanmin(images)), float(jnp.nanmax(images))  # one NaN must not hide the others' range
    if low < LOWEST or high > HIGHEST:
      raise ValueError(f"float images must lie in [0, 1], got values from {low:.3g} to {high:.3g}; divide by 255, give "
                       "uint8, or undo a normalization by mean and deviation: the encoder was trained without one")
