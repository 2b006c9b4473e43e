"""The two views of a batch's images: a function of the step's key and of each example's index."""

from __future__ import annotations

from typing import TYPE_CHECKING

from spectral_jax import augment as augmentation
from spectral_jax.training.state import step_key

if TYPE_CHECKING:
  from collections.abc import Callable
  from typing import Any


def make_views(augment: Callable[..., Any]) -> Callable[..., Any]:
  """Returns `views(state, batch, images) -> (u, v)`, each float32 `(b, h, w, c)` in [0, 1].

  `batch` holds the examples' `index`; `images` are those of the whole data set (resident), or None where the batch
  brings its own two crops (streaming).
  """
  def views(state, batch, images):
    pixels = images[batch["index"]] if images is not None else batch["images"]
    return augmentation.two_views(augment, step_key(state), batch["index"], pixels)

  return views
