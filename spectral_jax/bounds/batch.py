"""Bands of a whole batch: the mean over anchors of the squared gradient norm, InfoNCE."""

import jax.numpy as jnp

from spectral_jax import _anchors, _arrays
from spectral_jax.bounds.anchors import plugin_row
from spectral_jax.bounds.band import LEADING, Band, product, shared
from spectral_jax.bounds.terms import map_rows


def batch_band(u, v, *, temperature=0.1, kind="anchors"):
  """Mean over anchors of the squared gradient norm, between two proved bounds (InfoNCE).

  `anchors` averages the anchors' plug-in bands and caps them with the anisotropy form
  `mean_i ||g_i||^2 <= l_1 ||R||_F^2 / (n tau^2)`. `singular` is von Neumann's form, which costs a singular value
  decomposition of an n x n matrix: with `R = P - I` (rows of the softmax minus the positives), its singular values
  `s_1 >= s_2 >= ...` and the eigenvalues `l_1 >= l_2 >= ...` of the centred Gram matrix of V,

      (1/(n tau^2)) sum_k l_k s_{n+1-k}^2 <= mean_i ||g_i||^2 <= (1/(n tau^2)) sum_k l_k s_k^2.

  Args:
    u, v: `(n, d)` anchors and positives; rows are L2-normalised inside.
    temperature: tau > 0; 0.1 by default as in `losses.info_nce`.
    kind: `"anchors"` (default; linear memory) or `"singular"`.

  Returns:
    `Band` of scalars, squared norms; zeros for a single pair, which has no negative.

  Raises:
    TypeError, ValueError: as `anchor_band`.

  >>> import jax
  >>> u, v = jax.random.normal(jax.random.key(0), (2, 32, 8))
  >>> band = batch_band(u, v, temperature=0.5)
  >>> bool(band.lower <= band.value <= band.upper)
  True

  Reference: docs/theory.md, section 3.
  """
  _arrays.choice("kind", kind, ("anchors", "singular"))
  if kind == "singular":
    return _singular(u, v, temperature)
  return batch_report(u, v, temperature=temperature)[0]


def batch_report(u, v, *, temperature, loss="info_nce"):
  """The batch band and every anchor's strength and effective number of negatives, from one pass over the anchors.

  Returns:
    `(Band of scalars, repulsion (n,), effective_negatives (n,))`.
  """
  p = _anchors.problem(u, v, loss=loss, temperature=temperature, labels=None, negatives=None, t=1.0, gamma=1.0)
  common = shared(p.bank, LEADING)

  def row(u_i, v_i, similarities, attraction, repulsion, weights, mask, common):
    squares = jnp.sum(weights.w * weights.w)
    band = plugin_row(u_i, v_i, similarities, attraction, repulsion, weights, mask, common)
    return band, repulsion, jnp.where(squares > 0, 1 / jnp.where(squares > 0, squares, 1.0), 0.0)

  bands, repulsion, effective = map_rows(row, p, common, loss, False)
  band = Band(*(jnp.mean(x) for x in bands))
  if loss == "info_nce":
    # Rows of R: ||R_i||^2 = q^2 (sum w^2 + 1), and repulsion = q / tau.
    anisotropic = common.top * jnp.sum(repulsion ** 2 * (1 + 1 / jnp.maximum(effective, 1)))
    band = band._replace(upper=jnp.minimum(band.upper, anisotropic))
  return band, repulsion, effective


def _singular(u, v, temperature):
  p = _anchors.problem(u, v, loss="info_nce", temperature=temperature, labels=None, negatives=None, t=1.0, gamma=1.0)
  n = p.u.shape[0]
  logits = product(p.u, p.v.T) * p.scale
  residual = jnp.exp(logits - _log_sum(logits)) - jnp.eye(n, dtype=p.u.dtype)
  g = product(residual, p.v) * p.scale
  centred = p.v - jnp.mean(p.v, axis=0)
  eigenvalues = jnp.zeros(n, p.u.dtype).at[:min(n, p.v.shape[1])].set(jnp.linalg.svd(centred, compute_uv=False) ** 2)
  squares = jnp.linalg.svd(residual, compute_uv=False) ** 2
  scale = p.scale * p.scale / n
  # Rounding of either spectrum is relative to its greatest value.
  slack = 16 * jnp.finfo(p.u.dtype).eps * scale * jnp.sum(eigenvalues) * squares[0]
  lower, upper = scale * jnp.sum(eigenvalues * squares[::-1]), scale * jnp.sum(eigenvalues * squares)
  return Band(jnp.maximum(lower - slack, 0.0), jnp.mean(jnp.sum(g * g, axis=-1)), upper + slack)


def _log_sum(logits):
  largest = jnp.max(logits, axis=-1, keepdims=True)
  return largest + jnp.log(jnp.sum(jnp.exp(logits - largest), axis=-1, keepdims=True))
