"""How far contrastive learning (CL) and its label-aware form (NSCL) can drift apart: loss, similarities, parameters.

Upper bounds on distances and lower bounds on alignment, from arXiv 2510.08852 and its predecessor; the proofs of those
that are short are in docs/metrics.md. At the temperatures that are used many say nothing: a lower bound below 0, an
upper one that is astronomical or infinite. The number is returned all the same.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import jax
import jax.numpy as jnp
from jax import lax

from spectral_jax import _arrays
from spectral_jax.metrics import _moments

if TYPE_CHECKING:
  from jaxtyping import Array, ArrayLike, Float, Int

  from spectral_jax._types import Scalar

TILE = 256  # rows whose distances to all others are alive at once


def loss_gap_bound(class_counts: Float[ArrayLike, " c"] | Int[ArrayLike, " c"], *,
                   temperature: Scalar) -> Float[Array, ""]:
  """Upper bound on the contrastive loss less its label-aware form, over a data set.

  `0 <= L_CL - L_NSCL <= log(1 + n_max e^(2/tau) / (N - n_max))`, `n_max` the largest of N examples' classes; for C
  equal classes `log(1 + e^(2/tau) / (C - 1))`. At small tau it is near `2/tau - log((N - n_max) / n_max)`.

  Args:
    class_counts: `(C,)` numbers of examples, >= 0.
    temperature: tau, > 0, a number or a traced scalar.

  Returns:
    A scalar of at least float32, nats; infinite for a single class.

  Raises:
    TypeError, ValueError: counts that are not a vector of numbers, or a concrete `temperature` that is not positive.

  >>> import jax.numpy as jnp
  >>> print(f"{loss_gap_bound(jnp.full(100, 500), temperature=1.0):.4f}")
  0.0720

  Reference: arXiv 2510.08852.
  """
  counts = _vector("class_counts", class_counts)
  return _loss_gap(counts, _scalar("temperature", temperature))


def anchor_loss_gap_bound(labels: Int[ArrayLike, " n"], *, temperature: Scalar) -> Float[Array, " n"]:
  """`loss_gap_bound` of each anchor of a batch, of `losses.dcl` less `losses.nscl`: it holds at every step.

  `l_CL - l_NSCL <= log(1 + (n_y - 1) e^(2/tau) / (B - n_y))`, `n_y` the number of the B images that have the anchor's
  class. It holds with the positive in both denominators as well (`losses.nt_xent`, and `nscl` with
  `positive_in_denominator=True`), and its mean over anchors bounds the batch's gap if every anchor has a negative.

  Args:
    labels: `(B,)` integers, the classes.
    temperature: tau, > 0, a number or a traced scalar.

  Returns:
    `(B,)`, nats; 0 for an anchor alone in its class, infinite where the whole batch is one class.

  Raises:
    TypeError, ValueError: labels that are not a vector of integers, or a concrete `temperature` that is not positive.

  >>> import jax.numpy as jnp
  >>> print(*(f"{bound:.2f}" for bound in anchor_loss_gap_bound(jnp.array([0, 0, 1]), temperature=2.0)))
  1.31 1.31 0.00

  Reference: arXiv 2510.08852, per anchor.
  """
  labels = _arrays.as_array("labels", labels)
  if labels.ndim != 1 or labels.shape[0] == 0:
    raise ValueError(f"labels must have shape (B,), got {labels.shape}; pass one class per image")
  labels = _arrays.labels_of(labels, labels.shape[0])
  return _anchor_loss_gap(labels, _scalar("temperature", temperature))


def similarity_drift_bound(step_sizes: Float[ArrayLike, " t"], *, batch_size: Scalar, temperature: Scalar,
                           max_class_prior: Scalar, delta: Scalar = 0.05) -> Float[Array, ""]:
  """Upper bound on `||S_CL - S_NSCL||_F`, the similarity matrices of two runs of T steps with the same batches.

  With probability `1 - delta`: `exp(sum eta / (2 tau^2 B)) (sum eta / (tau sqrt(B))) Delta`, with
  `Delta = 2 e^(2/tau) (pi + eps) / (1 - pi - eps)` and `eps = sqrt(log(T B / delta) / (2 B))`.

  Args:
    step_sizes: `(T,)` the step sizes eta of gradient descent.
    batch_size: B, > 0.
    temperature: tau, > 0.
    max_class_prior: pi, the share of the largest class, > 0.
    delta: the probability that it may fail with, > 0; 0.05.

  Returns:
    A scalar of at least float32; infinite where it overflows, or where `pi + eps >= 1` (too small a batch).

  Raises:
    TypeError, ValueError: step sizes that are not a vector of numbers, or a concrete argument that is not positive.

  >>> import jax.numpy as jnp
  >>> print(f"{similarity_drift_bound(jnp.full(10, 0.01), batch_size=512, temperature=1.0, max_class_prior=0.01):.4f}")
  0.0086

  Reference: arXiv 2510.08852.
  """
  scalars = [_scalar(*item) for item in (("batch_size", batch_size), ("temperature", temperature),
                                         ("max_class_prior", max_class_prior), ("delta", delta))]
  return _similarity_drift(_vector("step_sizes", step_sizes), *scalars)


def cka_lower_bound(k_a: Float[ArrayLike, "n n"], k_b: Float[ArrayLike, "n n"]) -> Float[Array, ""]:
  """Lower bound on the (biased) CKA of two similarity matrices by their relative distance.

  With both centered and `rho = ||K_a - K_b||_F / ||K_a||_F`: `sqrt(1 - rho^2)` for `rho <= 1`, else
  `(1 - rho) / (1 + rho)`, which is negative: it says nothing, as CKA is never negative.

  Args:
    k_a: `(n, n)` similarities, such as `x x^T`; centered inside.
    k_b: `(n, n)` the other's.

  Returns:
    A scalar of at least float32 in [-1, 1]; NaN if `k_a` centered is zero, or if an entry is NaN.

  Raises:
    TypeError, ValueError: matrices that are not floating-point, not square or not of one shape.

  >>> import jax.numpy as jnp
  >>> k = jnp.eye(3)
  >>> print(cka_lower_bound(k, k), cka_lower_bound(k, 5 * k))
  1.0 -0.6

  Reference: arXiv 2510.08852 for `(1 - rho) / (1 + rho)`; the sharper form is the sine of the angle between them.
  """
  k_a, k_b = _arrays.pair(k_a, k_b, ("k_a", "k_b"))
  if k_a.shape[0] != k_a.shape[1]:
    raise ValueError(f"k_a and k_b must be square, the similarities of n examples, got {k_a.shape}; pass x @ x.T")
  return _cka_lower(k_a, k_b)


def rsa_lower_bound(x: Float[ArrayLike, "n d1"], y: Float[ArrayLike, "n d2"]) -> Float[Array, ""]:
  """Lower bound on Pearson's RSA by the distance of the two representations' cosine distances.

  With a and b the N(N-1)/2 distances `1 - cos` of x and of y, and `r = ||b - a||_2 / (sqrt(N (N-1)/2) sd(a))`:
  `sqrt(1 - r^2)` for `r <= 1`, else `(1 - r) / (1 + r)`. Memory is linear in N.

  Args:
    x: `(N, d_x)` one representation; rows are compared by cosine.
    y: `(N, d_y)` the other; row i is the same example as row i of x.

  Returns:
    A scalar of at least float32 in [-1, 1]; NaN if all distances of x are equal, if a row is zero, which has no cosine,
    or if an entry is NaN.

  Raises:
    TypeError, ValueError: arrays of a wrong type or rank, different numbers of rows, or fewer than 3.

  >>> import jax
  >>> x = jax.random.normal(jax.random.key(0), (20, 4))
  >>> print(f"{rsa_lower_bound(x, 2 * x):.3f}")
  1.000

  Reference: arXiv 2510.08852 for `(1 - r) / (1 + r)`.
  """
  x, y = _arrays.matrix("x", x), _arrays.matrix("y", y)
  if x.shape[0] != y.shape[0]:
    raise ValueError(
        f"x and y must have the same number of rows, row i of both being the same example; got {x.shape} and {y.shape}")
  if x.shape[0] < 3:
    raise ValueError(f"rsa_lower_bound needs at least 3 rows, got {x.shape[0]} in x and y; pass more examples")
  return _rsa_lower(x, y)


def weight_drift_bound(step_sizes: Float[ArrayLike, " t"], *, smoothness: Scalar, gradient_norm: Scalar,
                       num_classes: int, temperature: Scalar) -> Float[Array, ""]:
  """Upper bound on `||w_CL - w_NSCL||`, the parameters of two runs from one start with the same batches.

  `(G e^(2/tau) / (beta tau C)) (exp(beta sum eta) - 1)`.

  Args:
    step_sizes: `(T,)` the step sizes eta of gradient descent.
    smoothness: beta, > 0, the Lipschitz constant of the loss's gradient in the parameters.
    gradient_norm: G, > 0, a bound on the norm of the embeddings' gradient in the parameters.
    num_classes: C, > 0, of equal size.
    temperature: tau, > 0.

  Returns:
    A scalar of at least float32; infinite where it overflows.

  Raises:
    TypeError, ValueError: step sizes that are not a vector of numbers, or a concrete argument that is not positive.

  >>> import jax.numpy as jnp
  >>> bound = weight_drift_bound(jnp.full(10, 0.01), smoothness=1.0, gradient_norm=1.0, num_classes=10, temperature=1.0)
  >>> print(f"{bound:.4f}")
  0.0777

  Reference: arXiv 2510.08852.
  """
  scalars = [_scalar(*item) for item in (("smoothness", smoothness), ("gradient_norm", gradient_norm),
                                         ("num_classes", num_classes), ("temperature", temperature))]
  return _weight_drift(_vector("step_sizes", step_sizes), *scalars)


def _vector(name, values):
  values = _arrays.as_array(name, values)
  if not (jnp.issubdtype(values.dtype, jnp.floating) or jnp.issubdtype(values.dtype, jnp.integer)):
    raise TypeError(f"{name} must hold numbers, got dtype {values.dtype}")
  if values.ndim != 1 or values.shape[0] == 0:
    raise ValueError(f"{name} must be a vector of at least one entry, got shape {values.shape}")
  return values.astype(jnp.promote_types(values.dtype, jnp.float32))


def _scalar(name, value):
  value = jnp.asarray(_arrays.positive(name, value))
  return value.astype(jnp.promote_types(value.dtype, jnp.float32))


def _log1p_ratio(over, under, temperature):
  """`log(1 + over e^(2/tau) / under)` without the overflow: e^(2/tau) leaves float32 at tau = 0.02."""
  none = over == 0
  exponent = jnp.log(jnp.where(none, 1.0, over)) - jnp.log(under) + 2 / temperature
  return jnp.where(none, 0.0, jnp.logaddexp(exponent, 0.0))


@jax.jit
def _loss_gap(counts, temperature):
  largest = jnp.max(counts)
  return _log1p_ratio(largest, jnp.sum(counts) - largest, temperature)


@jax.jit
def _anchor_loss_gap(labels, temperature):
  ordered = jnp.sort(labels)
  same = jnp.searchsorted(ordered, labels, side="right") - jnp.searchsorted(ordered, labels, side="left")
  same = same.astype(temperature.dtype)
  return _log1p_ratio(same - 1, labels.shape[0] - same, temperature)


@jax.jit
def _similarity_drift(step_sizes, batch_size, temperature, max_class_prior, delta):
  total = jnp.sum(step_sizes)
  log_draws = math.log(step_sizes.shape[0]) + jnp.log(batch_size) - jnp.log(delta)
  share = max_class_prior + jnp.sqrt(jnp.maximum(log_draws, 0.0) / (2 * batch_size))
  informative = share < 1
  log_delta = math.log(2) + 2 / temperature + jnp.log(share) - jnp.log1p(-jnp.where(informative, share, 0.5))
  log_growth = total / (2 * temperature**2 * batch_size)
  log_bound = log_growth + jnp.log(total / temperature) - jnp.log(batch_size) / 2 + log_delta
  return jnp.where(informative | jnp.isnan(share), jnp.exp(log_bound), jnp.inf)


@jax.jit
def _weight_drift(step_sizes, smoothness, gradient_norm, num_classes, temperature):
  exponent = smoothness * jnp.sum(step_sizes)
  # log(e^x - 1) = x + log(1 - e^-x): neither factor may overflow where their product does not.
  log_growth = exponent + jnp.log(-jnp.expm1(-exponent))
  return jnp.exp(log_growth + 2 / temperature + jnp.log(gradient_norm / (smoothness * temperature * num_classes)))


def _from_distance(apart, size):
  """The bound from squared lengths: of the difference, and of the first."""
  rho = jnp.where(size == 0, jnp.nan, jnp.sqrt(apart) / jnp.sqrt(jnp.where(size == 0, 1.0, size)))
  close = rho <= 1
  return jnp.where(close, jnp.sqrt(jnp.where(close, (1 - rho) * (1 + rho), 1.0)), 2 / (1 + rho) - 1)


@jax.jit
def _cka_lower(k_a, k_b):
  scale = jnp.maximum(jnp.max(jnp.abs(k_a)), jnp.max(jnp.abs(k_b)))
  scale = lax.stop_gradient(jnp.where(scale > 0, scale, 1.0))  # squares then neither overflow nor vanish

  def centered(k):
    k = k / scale
    k = k - jnp.mean(k, axis=0)
    return k - jnp.mean(k, axis=1, keepdims=True)

  k_a, apart = centered(k_a), centered(k_b) - centered(k_a)
  return _from_distance(jnp.sum(apart * apart), jnp.sum(k_a * k_a))


@jax.jit
def _rsa_lower(x, y):
  n = x.shape[0]
  every = jnp.ones(n, bool)

  def side(z):
    rows = _moments.centered(z, lax.stop_gradient(z[0]), 1.0, every, True)[0]
    return rows, jnp.sum(rows * rows, axis=1)

  sides = side(x), side(y)

  def sums(statistic):
    """Sum over ordered pairs of a function of their two cosine distances, half the squared ones of unit rows."""
    @jax.checkpoint
    def row(i):
      a, b = ((squares + squares[i]) / 2 - jnp.matmul(z, z[i], precision=_arrays.HIGHEST) for z, squares in sides)
      return jnp.sum(jnp.where(jnp.arange(n) == i, 0.0, statistic(a, b)))
    return jnp.sum(lax.map(row, jnp.arange(n), batch_size=min(TILE, n)))

  mean = sums(lambda a, b: a) / (n * (n - 1.0))
  return _from_distance(sums(lambda a, b: (a - b) ** 2), sums(lambda a, b: (a - mean) ** 2))
