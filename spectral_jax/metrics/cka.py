"""Linear centered kernel alignment (Kornblith et al. 2019, arXiv 1905.00414), exact in one pass over the rows."""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING

import jax

from spectral_jax.metrics import _products

if TYPE_CHECKING:
  from jaxtyping import Array, ArrayLike, Bool, Float


def linear_cka(x: Float[ArrayLike, "n d1"], y: Float[ArrayLike, "n d2"], *, unbiased: bool = False,
               where: Bool[ArrayLike, " n"] | None = None, axis_name: str | None = None) -> Float[Array, ""]:
  """Linear CKA of two representations of the same examples: 1 if equal up to rotation and scale, 0 if unrelated.

  `HSIC(x, y) / sqrt(HSIC(x, x) HSIC(y, y))` with, for centered columns, `HSIC = ||X^T Y||_F^2`; or with the unbiased
  estimator of Song et al. 2012, over `K = X X^T` and `L = Y Y^T` with their diagonals set to zero:
  `HSIC_1 = [tr(K L) + 1'K1 1'L1/((n-1)(n-2)) - 2/(n-2) 1'K L 1] / (n (n-3))`.

  Exact over all rows, in one pass: memory is of order `min(n, d)^2` beside the inputs, never an average over
  minibatches. A mean far larger than the spread costs no accuracy. `metrics.streaming_cka` takes the rows in batches.

  Take `unbiased=True` unless n is far greater than the widths: the biased form grows toward 1 with d/n whatever the
  representations are, so that values at different n or d cannot be compared. The unbiased one may be slightly
  negative. Published values are mostly biased ones.

  Args:
    x: `(n, d_x)` one representation, used as it is (not normalized).
    y: `(n, d_y)` the other; row i is the same example as row i of x, the widths may differ.
    unbiased: the unbiased estimator of HSIC; False, as in Kornblith et al.
    where: `(n,)` bool, rows that count; None for all. What the others hold does not matter.
    axis_name: inside `shard_map`, the mesh axis that rows are sharded over; the result is then of all of them.

  Returns:
    A scalar of at least float32: in [0, 1] (biased), at most about 1 (unbiased). NaN if x or y is constant over the
    rows, if an entry is NaN or infinite, or if `where` leaves fewer than 2 rows (4 unbiased).

  Raises:
    TypeError, ValueError: arrays of a wrong type or rank, different numbers of rows, or fewer than 2 rows (4 unbiased)
    where that is known.

  Unrelated data in more dimensions than examples:

  >>> import jax
  >>> x, y = jax.random.normal(jax.random.key(0), (2, 256, 16384))
  >>> print(f"{linear_cka(x, y):.2f} {abs(linear_cka(x, y, unbiased=True)):.1f}")
  0.98 0.0

  References: arXiv 1905.00414; Song et al. 2012, "Feature selection via dependence maximization", JMLR 13.
  """
  least = 4 if unbiased else 2
  x, y, where = _products.rows_of(x, y, where, least if axis_name is None else 1,
                                  "linear_cka" + ", unbiased," * unbiased)
  return _linear_cka(x, y, where, unbiased=bool(unbiased), axis_name=axis_name)


@functools.partial(jax.jit, static_argnames=("unbiased", "axis_name"))
def _linear_cka(x, y, where, *, unbiased, axis_name):
  return _products.cka(_products.of_rows(x, y, where, axis_name, unit=False), unbiased)
