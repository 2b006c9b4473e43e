"""Which examples form which batch.

An epoch is a table of example indices, `(steps, batch_size)` int32. The tables of the present and of the next epoch
are part of a checkpoint, and so is the bank of embeddings that a selection rule draws later ones from: a restarted run
could not make them again. `planner.py` decides them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import jax
import numpy as np

if TYPE_CHECKING:
  from collections.abc import Mapping
  from typing import Any

  from jaxtyping import Int32


class Tables(NamedTuple):
  epoch: int
  present: np.ndarray                 # (steps, batch_size) int32
  following: np.ndarray | None        # the same for epoch + 1; None: still to be chosen
  bank: jax.Array | None = None       # embeddings, where a rule selects by them


def epoch_indices(seed: int, epoch: int, size: int, batch_size: int) -> Int32[np.ndarray, "steps b"]:
  """Returns `(size // batch_size, batch_size)` int32: a random permutation's full batches, the rest left out."""
  generator = np.random.Generator(np.random.Philox(np.random.SeedSequence([seed, epoch])))
  steps = size // batch_size
  return generator.permutation(size)[:steps * batch_size].reshape(steps, batch_size).astype(np.int32)


def stored(tables: Tables) -> dict[str, Any]:
  """What a checkpoint keeps of them: arrays and integers of the same shapes every time."""
  following = np.zeros_like(tables.present) if tables.following is None else tables.following
  content = {"epoch": tables.epoch, "present": tables.present, "following": following,
             "chosen": int(tables.following is not None)}
  return content if tables.bank is None else {**content, "bank": tables.bank}


def of_stored(content: Mapping[str, Any]) -> Tables:
  """The tables that `stored` had been given."""
  following = np.asarray(content["following"]) if int(content["chosen"]) else None
  return Tables(int(content["epoch"]), np.asarray(content["present"]), following, content.get("bank"))
