"""Names for the types of arguments. Type checkers alone import this: it needs jaxtyping, which nothing else does."""

from collections.abc import Callable
from typing import Literal, TypeAlias

from jaxtyping import Array, ArrayLike, Float

Scalar: TypeAlias = float | Float[ArrayLike, ""]  # a number, or a traced array of shape ()
Kernel: TypeAlias = Callable[[Array], Array]  # of squared distances, see losses.kernels
Reduction: TypeAlias = Literal["mean", "none"]
LossName: TypeAlias = Literal["info_nce", "nt_xent", "dcl", "dhel", "kcl", "nscl"]  # those with closed-form gradients
# One view, or both.
Views: TypeAlias = Float[ArrayLike, "m d"] | tuple[Float[ArrayLike, "m d"], Float[ArrayLike, "m d"]]
