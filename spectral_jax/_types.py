"""Names for the types of arguments. Type checkers alone import this: it needs jaxtyping, which nothing else does."""

from collections.abc import Callable
from typing import Any, Literal, TypeAlias

import numpy as np
from jaxtyping import Array, ArrayLike, Float

Config: TypeAlias = Any  # an ml_collections.ConfigDict, whose values have no types of their own; see `defaults`
Scalar: TypeAlias = float | np.floating | Float[Array, ""]  # a number, or a traced array of shape ()
Kernel: TypeAlias = Callable[[Array], Array]  # of squared distances, see losses.kernels
Reduction: TypeAlias = Literal["mean", "none"]
# Those with closed-form gradients.
LossName: TypeAlias = Literal["info_nce", "nt_xent", "dcl", "dhel", "kcl", "nscl", "sigmoid", "debiased"]
# One view, or both.
Views: TypeAlias = Float[ArrayLike, "m d"] | tuple[Float[ArrayLike, "m d"], Float[ArrayLike, "m d"]]
