"""What a loss sums over pairs: the three per-anchor statistics behind every loss of the package.

Row i meets row j through one number `s_ij = x_i . y_j`. The softmax losses need `log sum_j exp(s_ij)` (`LogSumExp`),
others a sum `sum_j f(s_ij)` (`ScoreSum`), the kernel losses `sum_j k(|x_i - y_j|^2)` (`KernelSum`). Each is summed tile
by tile: `start` gives the empty tally, `add` puts a tile of pairs into it, `merge` joins two tallies, `finish` reads
the result, and `slope` is its derivative with respect to the tile's `s_ij`. Dense, tiled and sharded losses all use
these, so each formula is written once.

Along `axis`, 1 sums over the columns of a tile (a statistic of its rows) and 0 over the rows (of its columns).
"""

import dataclasses
from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax import lax

# Stands for log(0) in a tally: finite, so that the difference of two of them is 0 and not NaN.
_LOWEST = -1e30


@dataclasses.dataclass(frozen=True)
class LogSumExp:
  """`log sum_j exp(s_ij)` over the pairs that count, with the running maximum subtracted; -inf where there are none."""

  def score(self, s, row_norms, col_norms, mask):
    # So that an overflow outside the mask reaches neither the value nor, as 0 x inf, a derivative.
    del row_norms, col_norms
    return jnp.where(mask, s, _LOWEST)

  def start(self, zeros):
    return zeros + _LOWEST, zeros

  def add(self, tally, score, mask, axis):
    # The maximum is a shift that cancels: it is held constant, so that derivatives of every order skip it.
    largest, total = tally
    shift = jnp.maximum(largest, lax.stop_gradient(score).max(axis, initial=_LOWEST))
    # Masked again: where all before are masked too, the shift is their score.
    terms = jnp.exp(score - jnp.expand_dims(shift, axis))
    return shift, total * jnp.exp(largest - shift) + jnp.where(mask, terms, 0.0).sum(axis)

  def merge(self, a, b):
    shift = jnp.maximum(a[0], b[0])
    return shift, a[1] * jnp.exp(a[0] - shift) + b[1] * jnp.exp(b[0] - shift)

  def finish(self, tally):
    largest, total = tally
    some = total != 0.0
    return jnp.where(some, largest + jnp.log(jnp.where(some, total, 1.0)), -jnp.inf)

  def slope(self, score, mask, value, cotangent):
    """`cotangent_i d value_i / d s_ij`: the softmax weight of the pair, times the cotangent."""
    value = jnp.where(value == -jnp.inf, 0.0, value)
    return jnp.where(mask, jnp.exp(score - value) * cotangent, 0.0)

  def norm_slope(self, slope):
    return jnp.zeros_like(slope)


@dataclasses.dataclass(frozen=True)
class ScoreSum:
  """`sum_j f(s_ij + offset_i + offset_j)` over the pairs that count, offsets being the rows' `norms`; 0 for none."""

  function: Callable

  def score(self, s, row_norms, col_norms, mask):
    return jnp.where(mask, s + row_norms + col_norms, 0.0)

  def start(self, zeros):
    return zeros

  def add(self, tally, score, mask, axis):
    return tally + jnp.where(mask, self.function(score), 0.0).sum(axis)

  def merge(self, a, b):
    return a + b

  def finish(self, tally):
    return tally

  def slope(self, score, mask, value, cotangent):
    """`cotangent_i f'(s_ij)`."""
    del value
    _, derivative = jax.jvp(self.function, (score,), (jnp.ones_like(score),))
    return jnp.where(mask, derivative * cotangent, 0.0)

  def norm_slope(self, slope):
    """The derivative with respect to the offset of either row of the pair, from that with respect to `s_ij`."""
    return slope


@dataclasses.dataclass(frozen=True)
class KernelSum(ScoreSum):
  """`sum_j k(|x_i - y_j|^2)` over the pairs that count; 0 where there are none."""

  def score(self, s, row_norms, col_norms, mask):
    # Rounding can make a squared distance negative: such a pair counts as a coinciding one. NaN stays NaN.
    squared = row_norms + col_norms - 2.0 * s
    return jnp.where(mask & ~(squared <= 0), squared, 0.0)

  def slope(self, score, mask, value, cotangent):
    """`cotangent_i d value_i / d s_ij`, that is `-2 k'(r_ij^2) cotangent_i`; 0 at coinciding points."""
    return super().slope(score, mask & ~(score <= 0), value, -2.0 * cotangent)

  def norm_slope(self, slope):
    """The derivative with respect to the squared norm of either row of the pair, from that with respect to `s_ij`."""
    return -0.5 * slope
