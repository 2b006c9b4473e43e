"""What `config.augment` may hold, checked from the config alone."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from spectral_jax._errors import ConfigError

if TYPE_CHECKING:
  from spectral_jax._types import Config

PROBABILITIES = ("jitter_prob", "gray_prob", "blur_prob", "solarize_prob")
# Half-widths: what each may be, and the reason for its limit.
AFFINE = {"rotation_deg": (180, "more turns the image past a full circle"),
          "scale": (1, "the image would shrink to nothing"),
          "shear": (math.inf, ""),
          "shift": (1, "the image would leave the view")}


def check_augment(augment: Config) -> None:
  """Raises ConfigError, naming the key, on a value of `config.augment` that no augmentation can have.

  Args:
    augment: what `make_augment` takes.

  >>> import ml_collections
  >>> check_augment(ml_collections.ConfigDict(dict(
  ...     crop_scale=(2.0, 1.0), flip=True, jitter_strength=0.5, jitter_prob=0.8, gray_prob=0.2, blur_prob=0.0,
  ...     solarize_prob=0.0, affine=dict(rotation_deg=0.0, scale=0.0, shear=0.0, shift=0.0))))
  Traceback (most recent call last):
  spectral_jax._errors.ConfigError: config.augment.crop_scale must be (lo, hi) with 0 < lo <= hi <= 1, ...
  """
  for name in PROBABILITIES:
    if not (_number(augment[name]) and 0 <= augment[name] <= 1):
      raise ConfigError(f"config.augment.{name} must be a probability in [0, 1], got {augment[name]!r}")
  if not isinstance(augment.flip, bool):
    raise ConfigError(f"config.augment.flip must be True or False, got {augment.flip!r}")
  if not (_number(augment.jitter_strength) and 0 <= augment.jitter_strength < math.inf):
    raise ConfigError("config.augment.jitter_strength must be a number that is not negative (SimCLR's are 0.5 and 1), "
                      f"got {augment.jitter_strength!r}")
  scale = augment.crop_scale
  if scale and not (isinstance(scale, (tuple, list)) and len(scale) == 2 and all(map(_number, scale))
                    and 0 < scale[0] <= scale[1] <= 1):
    raise ConfigError("config.augment.crop_scale must be (lo, hi) with 0 < lo <= hi <= 1, shares of the image's area, "
                      f"or () for no crop; got {scale!r}")
  for name, value in (augment.affine or {}).items():
    if name not in AFFINE:
      raise ConfigError(f"config.augment.affine.{name} is not known; it has {', '.join(AFFINE)}")
    limit, why = AFFINE[name]
    if not (_number(value) and 0 <= value < math.inf):
      raise ConfigError(f"config.augment.affine.{name} must be a number that is not negative, got {value!r}")
    if value > limit or value == limit == 1:
      raise ConfigError(f"config.augment.affine.{name} must be below {limit}, got {value!r}: {why}")


def _number(value):
  return isinstance(value, (int, float)) and not isinstance(value, bool) and not math.isnan(value)
