"""NaN or inf in is NaN out, of every function of gradients, bounds, spectrum and metrics, and of its derivative."""

import functools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from spectral_jax import bounds, gradients, metrics, spectrum
from spectral_jax.spectrum.ranks import rescale

LABELS = jnp.arange(6) % 3
U, V = jax.random.normal(jax.random.key(0), (2, 6, 4))
LOSSES = ("info_nce", "dcl", "kcl")  # the other view, both views, the own view

WHOLE_BATCH = {  # functions of one array that mix its rows: one bad row makes all NaN
    **{f"batch_band {kind}": functools.partial(lambda v, kind: bounds.batch_band(U, v, kind=kind), kind=kind)
       for kind in ("anchors", "singular")},
    **{f"eigenvalues {center}": functools.partial(spectrum.eigenvalues, center=center) for center in (False, True)},
    **{f"effective_rank {kind} {center}": functools.partial(spectrum.effective_rank, kind=kind, center=center)
       for kind in ("entropy", "rankme", "participation", "stable") for center in (False, True)},
    "effective_ranks": spectrum.effective_ranks,
    **{f"whiten {method}": functools.partial(spectrum.whiten, method=method)
       for method in ("zca", "cholesky", "newton_schulz")},
    "alignment": functools.partial(metrics.alignment, U),
    "alignment, alpha 1": functools.partial(metrics.alignment, U, alpha=1),
    "uniformity": metrics.uniformity}


def all_nan(tree):
  return all(bool(jnp.isnan(leaf).all()) for leaf in jax.tree.leaves(tree))


@pytest.mark.parametrize("name", WHOLE_BATCH)
def test_a_bad_entry_makes_everything_nan(name):
  function = WHOLE_BATCH[name]

  @jax.jit
  def value_and_gradient(x):
    return function(x), jax.grad(lambda x: sum(jnp.sum(leaf) for leaf in jax.tree.leaves(function(x))))(x)

  chex.assert_tree_all_finite(value_and_gradient(V))
  for bad in (jnp.nan, jnp.inf, -jnp.inf):
    value, gradient = value_and_gradient(V.at[2, 1].set(bad))
    assert all_nan(value)
    assert all_nan(gradient[2])  # alignment's rows are apart; whatever mixes them has NaN in all
    assert name.startswith("alignment") or all_nan(gradient)


def test_whatever_is_decomposed_is_nan_before():
  for bad in (jnp.nan, jnp.inf, -jnp.inf):
    rows, _ = rescale(V.at[2, 1].set(bad))
    assert all_nan(rows)


@pytest.mark.parametrize("loss", LOSSES)
def test_an_anchor_that_sees_a_bad_row_is_nan(loss):
  """Bands and gradients of exactly the anchors whose positive, negatives or own row are bad."""
  @jax.jit
  def parts(u, v):
    kw = dict(loss=loss, labels=LABELS)
    return [gradients.anchor_gradients(u, v, **kw), *bounds.anchor_band(u, v, leading=1, **kw),
            *bounds.anchor_band(u, v, kind="apriori", **kw)]

  derivative = jax.jit(jax.grad(lambda u, v: sum(jnp.sum(part) for part in parts(u, v)), argnums=(0, 1)))
  chex.assert_tree_all_finite(parts(U, V))
  own = np.arange(6) == 2  # what sees row 2: the anchor and its positive, or everyone through the bank
  sees = {"u": own if loss == "info_nce" else own | True, "v": own if loss == "kcl" else own | True}
  for bad in (jnp.nan, jnp.inf):
    for side, pair in (("u", (U.at[2, 1].set(bad), V)), ("v", (U, V.at[2, 1].set(bad)))):
      for part in parts(*pair):
        np.testing.assert_array_equal(jnp.isnan(part.reshape(6, -1)).all(1), sees[side])
      assert all_nan(derivative(*pair)["uv".index(side)][2])


def test_terms_are_nan_with_their_row():
  for terms in (gradients.anchor_terms, bounds.band_terms):
    fields = jax.jit(terms)(U.at[2, 0].set(jnp.nan), V)._asdict()
    for name in fields.keys() - {"anisotropy"}:  # that is the bank's, which holds V alone
      np.testing.assert_array_equal(jnp.isnan(fields[name].reshape(6, -1)).all(1), np.arange(6) == 2)


def test_no_neighbor_is_near_a_bad_row():
  for bad in (jnp.nan, jnp.inf):
    assert jnp.isnan(metrics.knn_accuracy(V.at[2, 1].set(bad), LABELS, U, LABELS, k=2))
    assert jnp.isnan(metrics.knn_accuracy(V, LABELS, U.at[2, 1].set(bad), LABELS, k=2))
  assert jnp.isfinite(metrics.knn_accuracy(V, LABELS, U, LABELS, k=2))
