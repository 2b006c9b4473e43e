"""3x3 convolutions of stride 1 by Winograd's minimal filtering, for CPU.

Lavin and Gray 2016 (arXiv 1509.09308), F(2x2, 3x3): a tile of 2x2 outputs takes 16 products for each pair of channels
instead of 36. With the transforms

  B^T = [[1, 0, -1, 0], [0, 1, 1, 0], [0, -1, 1, 0], [0, 1, 0, -1]]
  G = [[1, 0, 0], [1/2, 1/2, 1/2], [1/2, -1/2, 1/2], [0, 0, 1]]
  A^T = [[1, 1, 1, 0], [0, 1, -1, -1]]

of 4x4 tiles x of the image, which overlap by two, of 3x3 weights w and of 2x2 tiles dy of the output's gradient,

  y = A^T [(G w G^T) * (B^T x B)] A          dw = G^T [sum over tiles of (B^T x B) * (A dy A^T)] G

where * is, for each of the 16 places, a product over channels: 16 matrix products. Images are taken a few at a time, so
that their transforms, four numbers for each of the image's, stay in the cores' caches.
"""

from __future__ import annotations

import functools
import operator
from typing import TYPE_CHECKING

import jax
import jax.numpy as jnp
from jax import lax

from spectral_jax.models import groups

if TYPE_CHECKING:
  from jaxtyping import Array, Float

# Tiles of a group of images, the rows of its matrix products: enough for their rate, few enough for the caches.
GROUP_TILES = 512

_BT = ((1, 0, -1, 0), (0, 1, 1, 0), (0, -1, 1, 0), (0, 1, 0, -1))
_G = ((1, 0, 0), (0.5, 0.5, 0.5), (0.5, -0.5, 0.5), (0, 0, 1))
_AT = ((1, 1, 1, 0), (0, 1, -1, -1))
_A = tuple(zip(*_AT))
_GT = tuple(zip(*_G))


def convolve(x: Float[Array, "b h w c"], w: Float[Array, "3 3 c f"]) -> Float[Array, "b h w f"]:
  """`y[p] = sum_ij x[p + (i, j) - 1] w[i, j]`, zeros around the image.

  Args:
    x: `(b, h, w, c)`, height and width even.
    w: `(3, 3, c, f)`.

  Returns:
    `(b, h, w, f)` in the dtype of `x`, summed in at least float32.

  >>> x, w = jnp.ones((2, 4, 4, 1)), jnp.ones((3, 3, 1, 1))
  >>> convolve(x, w)[0, 0, :, 0].tolist()
  [4.0, 6.0, 6.0, 4.0]
  """
  return _convolve(x, w.shape[3], lambda i, j: w[i, j], channels=0)


def input_gradient(dy: Float[Array, "b h w f"], w: Float[Array, "3 3 c f"]) -> Float[Array, "b h w c"]:
  """`(b, h, w, c)`: the gradient of `sum(convolve(x, w) dy)` with respect to `x`, in the dtype of `dy`.

  >>> dy, w = jnp.ones((2, 4, 4, 1)), jnp.ones((3, 3, 1, 1))
  >>> input_gradient(dy, w)[0, 0, :, 0].tolist()
  [4.0, 6.0, 6.0, 4.0]
  """
  # The weights turned by half a turn; their channels stay in place, as to swap them takes longer than the products.
  return _convolve(dy, w.shape[2], lambda i, j: w[2 - i, 2 - j], channels=1)


def weight_gradient(x: Float[Array, "b h w c"], dy: Float[Array, "b h w f"]) -> Float[Array, "3 3 c f"]:
  """`(3, 3, c, f)`: the gradient of `sum(convolve(x, w) dy)` with respect to `w`, in at least float32.

  >>> x, dy = jnp.ones((2, 4, 4, 1)), jnp.ones((2, 4, 4, 1))
  >>> weight_gradient(x, dy)[1, :, 0, 0].tolist()
  [24.0, 32.0, 24.0]
  """
  dtype = jnp.promote_types(x.dtype, jnp.float32)

  def of_group(x, dy):
    dy = dy.astype(dtype)
    pairs = _image_tiles(x.astype(dtype)), _transform(_A, lambda i, j: dy[:, i::2, j::2])
    # A product over one dimension of rows: over three, XLA would copy the first factor transposed.
    pairs = jax.tree.map(lambda tiles: tiles.reshape(-1, tiles.shape[-1]), pairs)
    images, gradients = lax.optimization_barrier(pairs)
    return jax.tree.map(lambda x, dy: lax.dot_general(x, dy, (((0,), (0,)), ((), ()))), images, gradients)

  sums = groups.sum_images(of_group, _group(x), x, dy)
  return jnp.stack([jnp.stack(row) for row in _transform(_GT, lambda i, j: sums[i][j])])


def _convolve(x, features, weight, channels):
  """`convolve` by the weights `weight(i, j)`, matrices whose axis `channels` is that of the channels of `x`."""
  dtype = jnp.promote_types(x.dtype, jnp.float32)
  weights = _transform(_G, lambda i, j: weight(i, j).astype(dtype))

  def of_group(x):
    tiles = _image_tiles(x.astype(dtype))
    products = [[lax.dot_general(tiles[i][j], weights[i][j], (((3,), (channels,)), ((), ()))) for j in range(4)]
                for i in range(4)]
    # Else the compiler may fold the products' sums into the copy below and make each of them anew.
    products = lax.optimization_barrier(products)
    (y00, y01), (y10, y11) = _transform(_AT, lambda i, j: products[i][j])
    images, height, width = x.shape[:3]
    rows = [jnp.stack(pair, axis=3).reshape(images, height // 2, width, features) for pair in ((y00, y01), (y10, y11))]
    return jnp.stack(rows, axis=2).reshape(images, height, width, features).astype(x.dtype)

  return groups.map_images(of_group, _group(x), x)


def _group(x):
  return max(1, 4 * GROUP_TILES // (x.shape[1] * x.shape[2]))


def _image_tiles(x):
  """`B^T x B`: 4 x 4 arrays `(b, h / 2, w / 2, c)`."""
  padded = jnp.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)))
  height, width = x.shape[1:3]
  return _transform(_BT, lambda i, j: padded[:, i:i + height - 1:2, j:j + width - 1:2])


def _transform(matrix, tile):
  """`matrix t matrix^T` for the tiles whose number in row i and column j is `tile(i, j)`, as sums of arrays."""
  def entry(row, column):
    terms = [(p * q, tile(i, j)) for i, p in enumerate(row) for j, q in enumerate(column) if p * q]
    return functools.reduce(operator.add, [t if factor == 1 else factor * t for factor, t in terms])
  return [[entry(row, column) for column in matrix] for row in matrix]
