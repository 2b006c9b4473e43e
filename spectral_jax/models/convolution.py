"""Convolutions, and forms of them that are fast on CPU too.

XLA's CPU convolution is made for a small window that slides over a larger image. Two of its uses in training are not
that: the weight gradient, written as a convolution with a window as large as the image, takes several times as long as
the same sum made as a matrix product with patches; and a window larger than what it slides over, as in the gradient of
a stride-2 convolution down to 2x2 positions, is left to plain loops. Both are matrix products here. A 3x3 convolution
of stride 1 between many channels is made by Winograd's algorithm, in less than half the products. All of this on CPU
alone: elsewhere XLA's own forms stay. `benchmarks/encoder.py` compares them.
"""

from __future__ import annotations

import functools
import math
from typing import TYPE_CHECKING

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax import lax

from spectral_jax.models import groups, winograd

if TYPE_CHECKING:
  from typing import TypeAlias

  from jax.typing import DTypeLike
  from jaxtyping import Array, Float

  Padding: TypeAlias = tuple[tuple[int, int], tuple[int, int]]

NUMBERS = ("NHWC", "HWIO", "NHWC")

# Bytes of patches that the weight gradient makes at once, in float32: what stays in the cores' caches.
PATCH_BYTES = 4 * 2**20

# The narrowest convolution and the smallest image for which Winograd's algorithm gains more than its transforms cost.
WINOGRAD_CHANNELS = 64
WINOGRAD_SIDE = 4

# He et al. 2015, arXiv 1502.01852, for layers followed by ReLU.
_kaiming = nn.initializers.variance_scaling(2.0, "fan_out", "normal")


def convolution(features: int, size: int, stride: int = 1, *, dtype: DTypeLike, name: str | None = None) -> nn.Conv:
  """A `size` x `size` convolution without bias, padded by (size - 1) / 2 on every side at any stride."""
  pad = (size - 1) // 2
  return nn.Conv(features, (size, size), (stride, stride), padding=((pad, pad), (pad, pad)), use_bias=False,
                 dtype=dtype, kernel_init=_kaiming, conv_general_dilated=_of_flax, name=name)


def _of_flax(x, kernel, strides, padding, **_):
  """What `nn.Conv` calls; dilation, groups and precision are at their defaults in `convolution`."""
  return conv2d(x, kernel, tuple(strides), tuple(map(tuple, padding)))


@functools.partial(jax.custom_vjp, nondiff_argnums=(2, 3))
def conv2d(x: Float[Array, "b h w c"], w: Float[Array, "k l c f"], strides: tuple[int, int],
           padding: Padding) -> Float[Array, "b i j f"]:
  """`y[p] = sum_ij x[s p + (i, j) - pad] w[i, j]`, as `lax.conv_general_dilated`, in the form that is fast.

  Args:
    x: `(b, h, w, c)`.
    w: `(k, l, c, f)`, of the same dtype.
    strides: `(2,)` positions, down and across.
    padding: `((top, bottom), (left, right))` zeros around the image.

  Returns:
    `(b, h', w', f)` in the dtype of `x`. Differentiable in reverse mode only: `jax.jvp` raises TypeError. Two reverse
    passes give what it would: `y, pull = jax.vjp(f, x)`, then `jax.vjp(pull, zeros_like(y))[1]((dx,))` is `(dy,)`.

  >>> x, w = jnp.ones((2, 4, 4, 1)), jnp.ones((3, 3, 1, 1))
  >>> conv2d(x, w, (1, 1), ((1, 1), (1, 1)))[0, 0, :, 0].tolist()
  [4.0, 6.0, 6.0, 4.0]
  """
  return _on_cpu(forward_on_cpu, _plain, strides, padding)(x, w)


def forward_on_cpu(x: Float[Array, "b h w c"], w: Float[Array, "k l c f"], strides: tuple[int, int],
                   padding: Padding) -> Float[Array, "b i j f"]:
  """`conv2d` as it is computed on CPU."""
  if _suits_winograd(x, w, strides, padding):
    return winograd.convolve(x, w)
  # XLA has only plain loops for a window that is larger than the image.
  larger = any(k > side for side, k in zip(x.shape[1:3], w.shape))
  return (_product if larger else _plain)(x, w, strides, padding)


def input_gradient_on_cpu(dy: Float[Array, "b i j f"], x: Float[Array, "b h w c"], w: Float[Array, "k l c f"],
                          strides: tuple[int, int], padding: Padding) -> Float[Array, "b h w c"]:
  """`(b, h, w, c)`: the gradient of `sum(conv2d(x, w) dy)` with respect to `x`, as it is computed on CPU.

  Of `x` the shape and dtype are used.
  """
  if _suits_winograd(x, w, strides, padding):
    return winograd.input_gradient(dy, w)
  larger = any(k > side for side, k in zip(dy.shape[1:3], w.shape))
  return _transpose_of_input(_product if larger else _plain, dy, x, w, strides, padding)


def weight_gradient_on_cpu(x: Float[Array, "b h w c"], dy: Float[Array, "b i j f"], w: Float[Array, "k l c f"],
                           strides: tuple[int, int], padding: Padding) -> Float[Array, "k l c f"]:
  """`(k, l, c, f)`: the gradient of `sum(conv2d(x, w) dy)` with respect to `w`, as it is computed on CPU.

  Of `w` the shape and dtype are used.
  """
  if _suits_winograd(x, w, strides, padding):
    return winograd.weight_gradient(x, dy).astype(w.dtype)
  window, columns = w.shape[:2], w.shape[-1]
  rows = math.prod(w.shape[:3])

  dtype = jnp.promote_types(x.dtype, jnp.float32)  # a CPU's product of bfloat16 is the slower one

  def of_group(x, dy):
    seen = patches(x.astype(dtype), window, strides, padding).reshape(-1, rows)
    return lax.dot_general(seen, dy.astype(dtype).reshape(-1, columns), (((0,), (0,)), ((), ())))

  image_bytes = math.prod(dy.shape[1:3]) * rows * dtype.itemsize
  return groups.sum_images(of_group, max(1, PATCH_BYTES // image_bytes), x, dy).reshape(w.shape).astype(w.dtype)


def patches(x: Float[Array, "b h w c"], window: tuple[int, ...], strides: tuple[int, int],
            padding: Padding) -> Float[Array, "b i j p"]:
  """`(b, h', w', k l c)`: what each output position sees, in the order of the weights' rows.

  >>> patches(jnp.arange(4.0).reshape(1, 2, 2, 1), (1, 2), (1, 1), ((0, 0), (0, 0))).tolist()
  [[[[0.0, 1.0]], [[2.0, 3.0]]]]
  """
  x = jnp.pad(x, ((0, 0), *padding, (0, 0)))
  down, across = ([slice(i, side - k + i + 1, s) for i in range(k)]
                  for side, k, s in zip(x.shape[1:3], window, strides))
  return jnp.concatenate([x[:, rows, columns] for rows in down for columns in across], axis=-1)


def _forward(x, w, strides, padding):
  return conv2d(x, w, strides, padding), (x, w)


def _backward(strides, padding, residuals, dy):
  x, w = residuals

  def dx(dy, x, w, strides, padding):
    return _transpose_of_input(_plain, dy, x, w, strides, padding)

  def dw(x, dy, w, strides, padding):
    return jax.linear_transpose(lambda w: _plain(x, w, strides, padding), w)(dy)[0]

  return (_on_cpu(input_gradient_on_cpu, dx, strides, padding)(dy, x, w),
          _on_cpu(weight_gradient_on_cpu, dw, strides, padding)(x, dy, w))


conv2d.defvjp(_forward, _backward)


def _on_cpu(form, otherwise, strides, padding):
  def call(*operands):
    return lax.platform_dependent(*operands, cpu=lambda *a: form(*a, strides, padding),
                                  default=lambda *a: otherwise(*a, strides, padding))
  return call


def _suits_winograd(x, w, strides, padding):
  return (w.shape[:2] == (3, 3) and strides == (1, 1) and padding == ((1, 1), (1, 1))
          and min(w.shape[2:]) >= WINOGRAD_CHANNELS
          and all(side % 2 == 0 and side >= WINOGRAD_SIDE for side in x.shape[1:3]))


def _plain(x, w, strides, padding):
  return lax.conv_general_dilated(x, w, strides, padding, dimension_numbers=NUMBERS)


def _product(x, w, strides, padding):
  """The same as one matrix product with all patches, summed in at least float32."""
  rows = patches(x, w.shape[:2], strides, padding)
  dtype = jnp.promote_types(x.dtype, jnp.float32)
  sums = jnp.einsum("bhwk,kf->bhwf", rows, w.reshape(-1, w.shape[-1]), preferred_element_type=dtype)
  return sums.astype(x.dtype)


def _transpose_of_input(form, dy, x, w, strides, padding):
  return jax.linear_transpose(lambda x: form(x, w, strides, padding), x)(dy)[0]
