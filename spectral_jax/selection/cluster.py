"""Cluster batches: every batch from one cluster of the embeddings (arXiv 2407.18887).

Spherical k-means: labels and unit centers `c` that raise `sum_i x_i . c_{label(i)}`. The paper clusters a source into
10 and fills a batch from one cluster. Ours, where the paper leaves it open: greedy k-means++ seeds and 20 rounds;
examples in random order within their cluster; and, so that every example is seen, batches are consecutive runs through
the clusters: at most `clusters - 1` batches of an epoch hold two clusters or more.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import jax
import jax.numpy as jnp
from jax import lax

from spectral_jax._arrays import HIGHEST, unit_rows
from spectral_jax.selection import _graph

if TYPE_CHECKING:
  from jaxtyping import Array, Float, Int32, PRNGKeyArray

_ROUNDS = 20


def cluster_order(key: PRNGKeyArray, rows: Float[Array, "n d"], clusters: int) -> Int32[Array, " n"]:
  """The examples `(n,)`, cluster by cluster; within one, in the order of `rows`."""
  labels, _ = kmeans(key, rows, min(clusters, rows.shape[0]))
  return jnp.argsort(labels, stable=True).astype(jnp.int32)


def kmeans(key: PRNGKeyArray, rows: Float[Array, "n d"],
           clusters: int) -> tuple[Int32[Array, " n"], Float[Array, "clusters d"]]:
  """Labels `(n,)` and unit centers `(clusters, d)` of unit rows by spherical k-means: 20 n d clusters operations.

  Ties go to the lower label; a cluster that loses all its rows keeps its center.
  """
  def assign(centers):
    of = lambda some: jnp.argmax(jnp.dot(rows[some], centers.T, precision=HIGHEST), axis=1).astype(jnp.int32)
    return _graph.in_tiles(of, rows.shape[0])

  def refine(_, centers):
    sums = jax.ops.segment_sum(rows, assign(centers), clusters)
    return jnp.where(jnp.any(sums != 0, axis=1, keepdims=True), unit_rows(sums), centers)

  centers = lax.fori_loop(0, _ROUNDS, refine, _seeds(key, rows, clusters))
  return assign(centers), centers


def _seeds(key, rows, clusters):
  """Greedy k-means++: of a few rows drawn by their distance `1 - cos` to the seeds, the one that helps most."""
  trials = 2 + clusters.bit_length()  # 2 + log k, as Arthur and Vassilvitskii's implementation

  def draw(k, carry):
    seeds, distance = carry
    # Where all that is left coincides with a seed, any row with a direction does.
    weight = jnp.where(jnp.any(distance > 0), distance, directed)
    drawn = rows[jax.random.categorical(jax.random.fold_in(key, k), jnp.log(weight), shape=(trials,))]
    away = jnp.maximum(1 - jnp.dot(rows, drawn.T, precision=HIGHEST), 0.0)
    distances = jnp.minimum(distance[:, None], away * directed[:, None])
    best = jnp.argmin(jnp.sum(distances, axis=0))
    return seeds.at[k].set(drawn[best]), distances[:, best]

  directed = jnp.any(rows != 0, axis=1).astype(rows.dtype)
  return lax.fori_loop(0, clusters, draw, (jnp.zeros((clusters, rows.shape[1]), rows.dtype), directed))[0]
