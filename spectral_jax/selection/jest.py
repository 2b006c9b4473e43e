"""Joint example selection (JEST): chunks drawn by what the learner can still learn, given the chunks before."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

import jax
import jax.numpy as jnp
from jax import lax

from spectral_jax._arrays import HIGHEST, choice, positive
from spectral_jax.selection import _checks, _graph

if TYPE_CHECKING:
  from typing import Literal

  from jaxtyping import Array, Int32, PRNGKeyArray

  from spectral_jax._types import Scalar, Views

LOSSES = ("softmax", "sigmoid")


def jest_batch(key: PRNGKeyArray, learner: Views, reference: Views, batch_size: int, *, chunks: int = 16,
               temperature: Scalar = 0.1, reference_temperature: Scalar | None = None,
               loss: Literal["softmax", "sigmoid"] = "softmax", bias: Scalar = -10.0) -> Int32[Array, " b"]:
  """Draws a batch in chunks, each with probability proportional to exp(learnability) given what is drawn already.

  Learnability is the learner's loss minus the reference's, `r(i | S) = l(i | S) - l_ref(i | S)`: high where the learner
  is wrong and the reference is not. With similarities `s_ij = u_i . v_j / temperature` and S the examples drawn so far

      "softmax"   l(i | S) = -s_ii + (log sum_{j in S} e^{s_ij} + log sum_{j in S} e^{s_ji}) / 2,   the sum 0 for no S
      "sigmoid"   l(i | S) = -log sig(s_ii + bias) - sum_{j in S} log sig(-s_ij - bias) + log sig(-s_ji - bias)

  A chunk is drawn without repeats, by the largest r plus Gumbel noise. Costs m x batch_size x d operations; no m x m
  matrix of scores is made: each chunk adds its own columns.

  Args:
    key: a JAX random key.
    learner: the learner's embeddings, `(m, d)`, or a tuple of both views `(u, v)`; rows are normalized inside.
    reference: the reference's embeddings of the same examples, `(m, d')`, or a tuple of both views.
    batch_size: examples in the batch, at most m; the paper draws a fifth of a superbatch.
    chunks: parts that the batch is drawn in, 16 as in the paper; at most batch_size.
    temperature: of the learner's similarities, 0.1 as in `losses.info_nce`.
    reference_temperature: of the reference's; None means the same.
    loss: "softmax" for InfoNCE and similar losses, "sigmoid" for SigLIP. With one view for both, s_ii says nothing and
      the first chunk is uniform.
    bias: of "sigmoid", -10 as SigLIP begins with.

  Returns:
    `(batch_size,)` int32 indices, in the order they were drawn. Examples without a direction in either bank come last.

  Raises:
    ValueError: different numbers of examples, a batch larger than the bank, chunks < 1, an unknown loss, a temperature
      that is not positive, rows that are not finite.

  Example:
    >>> import jax
    >>> from spectral_jax.selection import jest_batch
    >>> learner, reference = jax.random.normal(jax.random.key(0), (2, 100, 8))
    >>> jest_batch(jax.random.key(1), learner, reference, 20).shape
    (20,)

  Reference: Evans, Parthasarathy, Merzic and Henaff, "Data curation via joint example selection further accelerates
  multimodal learning", arXiv 2406.17711. For the softmax the paper's text could not be read; the form above leaves the
  positive out of the denominator, so that S alone decides it.
  """
  _checks.check_key(key)
  pairs = [_views(name, views, batch_size) for name, views in (("learner", learner), ("reference", reference))]
  sizes = [u.shape[0] for u, _ in pairs]
  if sizes[0] != sizes[1]:
    raise ValueError(f"learner and reference must embed the same examples, got {sizes[0]} and {sizes[1]} rows")
  _checks.count("chunks", chunks)
  choice("loss", loss, LOSSES)
  temperatures = (positive("temperature", temperature),
                  temperature if reference_temperature is None else
                  positive("reference_temperature", reference_temperature))
  return _jest(key, pairs, temperatures, _checks.scalar("bias", bias), batch_size=batch_size, chunks=chunks, loss=loss)


def _views(name, views, batch_size):
  """Both views of the examples; one array stands for both."""
  if not isinstance(views, (tuple, list)):
    views = (views, views)
  if len(views) != 2:
    raise ValueError(f"{name} must be one array of embeddings or a tuple of two views, got {len(views)} arrays")
  u, v = (_checks.check_bank(view, batch_size, name) for view in views)
  if u.shape != v.shape:
    raise ValueError(f"the two views of {name} must have the same shape, got {u.shape} and {v.shape}")
  return u, v


@partial(jax.jit, static_argnames=("batch_size", "chunks", "loss"))
def _jest(key, pairs, temperatures, bias, *, batch_size, chunks, loss):
  pairs = [tuple(_checks.directions(view) for view in pair) for pair in pairs]
  m = pairs[0][0].shape[0]
  directed = jnp.all(jnp.stack([jnp.any(view != 0, axis=1) for pair in pairs for view in pair]), axis=0)
  size = -(-batch_size // min(chunks, batch_size))
  rounds = -(-batch_size // size)
  zeros = jnp.zeros((m,), jnp.result_type(*pairs[0], *pairs[1]))

  def own(pair, temperature):
    s = jnp.sum(pair[0] * pair[1], axis=1) / temperature
    return -s if loss == "softmax" else -jax.nn.log_sigmoid(s + bias)

  def columns(pair, temperature, drawn):
    """Of each example with those drawn, both ways: the log of the summed exponentials, or the summed losses."""
    def of(some):
      ways = [jnp.dot(pair[a][some], pair[1 - a][drawn].T, precision=HIGHEST) / temperature for a in (0, 1)]
      if loss == "softmax":
        return tuple(jax.nn.logsumexp(way, axis=1) for way in ways)
      return tuple(-jnp.sum(jax.nn.log_sigmoid(-way - bias), axis=1) for way in ways)

    return _graph.in_tiles(of, m)

  def joined(sums, pair_columns):
    return [tuple(jnp.logaddexp(a, b) if loss == "softmax" else a + b for a, b in zip(old, new, strict=True))
            for old, new in zip(sums, pair_columns, strict=True)]

  def draw(k, carry):
    sums, free, taken = carry
    met = [0.5 * (ways[0] + ways[1]) if loss == "softmax" else ways[0] + ways[1] for ways in sums]
    learnable = alone + jnp.where(k == 0, 0.0, met[0] - met[1])
    score = learnable + jax.random.gumbel(jax.random.fold_in(key, k), (m,), zeros.dtype)
    score = jnp.where(directed, score, jnp.finfo(zeros.dtype).min)
    drawn = lax.top_k(jnp.where(free, score, -jnp.inf), size)[1].astype(jnp.int32)
    seen = [columns(pair, t, drawn) for pair, t in zip(pairs, temperatures, strict=True)]
    return joined(sums, seen), free.at[drawn].set(False), lax.dynamic_update_slice(taken, drawn, (k * size,))

  alone = own(pairs[0], temperatures[0]) - own(pairs[1], temperatures[1])
  none = zeros - jnp.inf if loss == "softmax" else zeros
  start = ([(none, none), (none, none)], jnp.ones((m,), bool), jnp.zeros((rounds * size,), jnp.int32))
  # The last chunk may be drawn too large: its best come first.
  return lax.fori_loop(0, rounds, draw, start)[2][:batch_size]
