"""One engine: dense, tiled and sharded losses are the same function, with the same gradient."""

import contextlib
import functools

import hypothesis
import hypothesis.strategies as st
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, NamedSharding, PartitionSpec
from jax.test_util import check_grads

from spectral_jax import losses

N, D, CLASSES = 48, 5, 4

# Every loss, as a function of (u, v, labels, queue, temperature, where) and the engine's settings.
LOSSES = {
    "info_nce": lambda u, v, y, q, t, w, **k: losses.info_nce(u, v, temperature=t, where=w, **k),
    "info_nce_symmetric_queue": lambda u, v, y, q, t, w, **k: losses.info_nce(
        u, v, temperature=t, where=w, negatives=q, symmetric=True, **k),
    "nt_xent": lambda u, v, y, q, t, w, **k: losses.nt_xent(u, v, temperature=t, where=w, **k),
    "dcl": lambda u, v, y, q, t, w, **k: losses.dcl(u, v, temperature=t, where=w, **k),
    "dhel": lambda u, v, y, q, t, w, **k: losses.dhel(u, v, temperature=t, where=w, **k),
    "nscl": lambda u, v, y, q, t, w, **k: losses.nscl(u, v, y, temperature=t, where=w, **k),
    "supcon": lambda u, v, y, q, t, w, **k: losses.supcon(u, v, y, temperature=t, where=w, **k),
    "sigmoid": lambda u, v, y, q, t, w, **k: losses.sigmoid(u, v, temperature=t, bias=-t, where=w, **k),
    "spectral_contrastive": lambda u, v, y, q, t, w, **k: losses.spectral_contrastive(u, v, where=w, **k),
    "hard_negative": lambda u, v, y, q, t, w, **k: losses.hard_negative(u, v, temperature=t, prior=0.1, where=w, **k),
    "global_contrastive": lambda u, v, y, q, t, w, **k: losses.global_contrastive(
        u, v, jnp.stack([y - 2.0, -0.5 * y], 1), temperature=t, gamma=0.6, where=w, **k)[0],
    "kcl": lambda u, v, y, q, t, w, **k: losses.kcl(u, v, gamma=t, where=w, **k),
    "kcl_log": lambda u, v, y, q, t, w, **k: losses.kcl(
        u, v, gamma=t, where=w, kernel=losses.kernels.log(1.0), normalize=False, **k),
}


def batch(seed=0, n=N, dtype=np.float64):
  rng = np.random.default_rng(seed)
  u, noise = rng.normal(size=(2, n, D))
  return (u.astype(dtype), (u + noise).astype(dtype), rng.integers(0, CLASSES, n),
          rng.normal(size=(16, D)).astype(dtype),
          dtype(0.2), rng.random(n) > 0.2)


@functools.partial(jax.jit, static_argnames=("name", "tile_size", "matmul_dtype"))
def value_and_gradients(arguments, name, tile_size=None, matmul_dtype=None):
  """Of (u, v, queue, temperature), for one loss."""
  u, v, y, q, t, w = arguments
  keywords = {"matmul_dtype": matmul_dtype} if matmul_dtype else {}
  return jax.value_and_grad(
      lambda u, v, q, t: LOSSES[name](u, v, y, q, t, w, tile_size=tile_size, **keywords), (0, 1, 2, 3))(u, v, q, t)


def assert_close(got, expected, rtol, what):
  for a, b in zip(jax.tree.leaves(got), jax.tree.leaves(expected)):
    a, b = np.asarray(a, np.float64), np.asarray(b, np.float64)
    assert np.abs(a - b).max() <= rtol * max(np.abs(b).max(), 1e-3), what


@pytest.mark.parametrize("name", LOSSES)
def test_tile_size_does_not_change_the_result(name):
  with jax.enable_x64(True):
    arguments = batch(n=65)
    dense = value_and_gradients(arguments, name, tile_size=1000)
    for tile in (1, 7, 64, 65):
      assert_close(value_and_gradients(arguments, name, tile_size=tile), dense, 1e-12, (name, tile))


def test_size_picks_the_tiled_form_and_agrees():
  arguments = batch(n=700, dtype=np.float32)
  tiled, dense = (value_and_gradients(arguments, "nt_xent", tile_size=t) for t in (None, 2000))
  assert_close(tiled, dense, 1e-5, "nt_xent")
  lowered = lambda t: value_and_gradients.lower(arguments, "nt_xent", tile_size=t).compile().memory_analysis()
  assert lowered(None).temp_size_in_bytes < lowered(2000).temp_size_in_bytes / 2


def mesh_of(devices):
  return jax.make_mesh((devices,), ("data",), axis_types=(AxisType.Auto,), devices=jax.devices()[:devices])


@pytest.fixture(scope="module")
def one_device():
  arguments = batch(dtype=np.float32)
  return arguments, {name: value_and_gradients(arguments, name) for name in LOSSES}


@pytest.mark.parametrize("devices, tile_size", [(1, 13), (2, 7), (4, None), (8, None)])  # several tiles a device; one
def test_sharded_equals_one_device(one_device, devices, tile_size):
  arguments, expected = one_device
  mesh = mesh_of(devices)
  rows = NamedSharding(mesh, PartitionSpec("data"))
  u, v, y, q, t, w = (jax.device_put(a, rows) if np.ndim(a) else a for a in arguments)

  @jax.jit
  def run(u, v, y, q, t, w):
    def of(name):
      # `sharded` takes the library's functions; a lambda that passes axis_name on is as good as one.
      loss = losses.sharded(
          lambda u, v, y, q, t, w, axis_name: LOSSES[name](u, v, y, q, t, w, axis_name=axis_name, tile_size=tile_size),
          mesh)
      return jax.value_and_grad(lambda u, v, q, t: loss(u, v, y, q, t, w), (0, 1, 2, 3))(u, v, q, t)

    return {name: of(name) for name in LOSSES}

  got = run(u, v, y, q, t, w)
  for name in LOSSES:
    assert_close(got[name], expected[name], 1e-5, (name, devices))
    assert got[name][1][0].sharding.spec == PartitionSpec("data")


def test_sharded_needs_no_jit_takes_partials_and_gives_values_per_anchor(one_device):
  (u, v, y, q, t, w), _ = one_device
  mesh = mesh_of(4)
  partial = functools.partial(losses.info_nce, negatives=q, temperature=0.2)
  values = losses.sharded(partial, mesh)(u, v, where=w, reduction="none")
  np.testing.assert_allclose(values, partial(u, v, where=w, reduction="none"), rtol=1e-5, atol=1e-6)
  np.testing.assert_allclose(losses.sharded(losses.kcl, mesh)(u, v), losses.kcl(u, v), rtol=1e-5)


@pytest.mark.parametrize("is_set, where_rows_are", [
    (False, "host"), (False, "sharded"), (True, "one device"), (True, "sharded")])
def test_an_ordinary_mesh_with_explicit_axes_works(one_device, is_set, where_rows_are):
  (u, v, _, _, _, w), _ = one_device
  mesh = jax.make_mesh((2,), ("data",), devices=jax.devices()[:2])  # Explicit is JAX's default
  assert mesh.axis_types == (AxisType.Explicit,)
  expected = jax.value_and_grad(losses.dcl)(u, v, where=w)
  if where_rows_are == "one device":
    u, v = jnp.asarray(u), jnp.asarray(v)
  elif where_rows_are == "sharded":
    u, v = jax.device_put((u, v), NamedSharding(mesh, PartitionSpec("data")))
  loss = losses.sharded(losses.dcl, mesh)
  with jax.set_mesh(mesh) if is_set else contextlib.nullcontext():
    got = jax.value_and_grad(loss)(u, v, where=w)
    assert_close(got, expected, 1e-5, "eager")
    if where_rows_are == "sharded":
      jitted = jax.jit(lambda u, v: jax.value_and_grad(lambda u: loss(1.0 * u, v, where=w))(u))(u, v)
      assert_close(jitted, expected, 1e-5, "jit")
      each = loss(u, v, where=w, reduction="none")
      assert each.sharding.spec == PartitionSpec("data")
      np.testing.assert_allclose(each.sum() / w.sum(), expected[0], rtol=1e-5)


def test_plain_jit_on_sharded_arrays_is_right(one_device):
  (u, v, y, q, t, w), expected = one_device
  rows = NamedSharding(mesh_of(4), PartitionSpec("data"))
  u, v = jax.device_put(u, rows), jax.device_put(v, rows)
  assert_close(value_and_gradients((u, v, y, q, t, w), "nt_xent"), expected["nt_xent"], 1e-5, "dense")
  assert_close(value_and_gradients((u, v, y, q, t, w), "nt_xent", tile_size=16), expected["nt_xent"], 1e-5, "tiled")


def test_no_device_holds_the_whole_matrix():
  u, v = np.random.default_rng(0).normal(size=(2, 2048, 8)).astype(np.float32)

  def temporaries(devices):
    gradient = jax.jit(jax.grad(losses.sharded(functools.partial(losses.nt_xent, tile_size=64), mesh_of(devices))))
    return gradient.lower(u, v).compile().memory_analysis().temp_size_in_bytes

  sizes = [temporaries(devices) for devices in (1, 4, 8)]
  assert sizes[0] > sizes[1] > sizes[2]
  assert sizes[2] < (2 * 2048) ** 2 * 4 / 8 / 8


@pytest.mark.parametrize("error, words, call", [
    (TypeError, "mesh must be a jax.sharding.Mesh, got None", lambda m: losses.sharded(losses.dcl, None)),
    (ValueError, "axis must be one of the mesh's axes", lambda m: losses.sharded(losses.dcl, m, axis="rows")),
    (TypeError, "mesh must be a jax.sharding.Mesh, got array", lambda m: losses.sharded(losses.dcl, np.ones(4))),
    (TypeError, "u must be an array, got <class 'numpy.float16'>", lambda m: losses.sharded(losses.nt_xent, m)(
        np.float16, np.ones((4, 2), np.float32))),
    (ValueError, "2 devices, which do not divide 3 rows", lambda m: losses.sharded(losses.dcl, mesh_of(2))(
        [[1.0, 2.0]] * 3, [[1.0, 2.0]] * 3)),
    (ValueError, "4 devices, which do not divide 6 rows", lambda m: losses.sharded(losses.dcl, m)(
        np.ones((6, 2), np.float32), np.ones((6, 2), np.float32))),
])
def test_sharded_refuses_what_it_cannot_do(error, words, call):
  with pytest.raises(error, match=words):
    call(mesh_of(4))


@hypothesis.settings(max_examples=20, deadline=None, derandomize=True)
@hypothesis.given(
    name=st.sampled_from(sorted(LOSSES)), n=st.sampled_from([1, 23]), tile=st.just(7),
    dtype=st.sampled_from(["float32", "bfloat16"]), seed=st.integers(0, 2**16), kept=st.floats(0, 1),
    temperature=st.sampled_from([0.005, 0.1, 1.0]))
def test_any_mask_size_loss_and_dtype(name, n, tile, dtype, seed, kept, temperature):
  u, v, y, q, _, _ = batch(seed, n, np.float32)
  mask = np.random.default_rng(seed).random(n) < kept
  arguments = jnp.asarray(u, dtype), jnp.asarray(v, dtype), y, jnp.asarray(q, dtype), np.float32(temperature), mask
  tiled, dense = (value_and_gradients(arguments, name, tile_size=t) for t in (tile, 1000))
  for a, b in zip(jax.tree.leaves(tiled), jax.tree.leaves(dense)):
    a, b = np.asarray(a, np.float64), np.asarray(b, np.float64)
    assert np.all(np.isfinite(a)) and a.shape == b.shape
    rounding = 1e-2 if dtype == "bfloat16" and a.ndim else 2e-5
    assert np.abs(a - b).max(initial=0) <= rounding * max(np.abs(b).max(initial=0), 1.0)


def derivatives(loss, u, direction):
  """Forward mode, reverse mode, and second derivatives along a direction in three ways, of `loss(u)`."""
  gradient = jax.grad(loss)
  return {
      "gradient": gradient(u),
      "jvp": jax.jvp(loss, (u,), (direction,))[1],
      "linearize": jax.linearize(loss, u)[1](direction),
      "forward over reverse": jax.jvp(gradient, (u,), (direction,))[1],
      "reverse over reverse": jax.grad(lambda u: jnp.vdot(gradient(u), direction))(u),
      "forward over forward": jax.jvp(lambda u: jax.jvp(loss, (u,), (direction,))[1], (u,), (direction,))[1],
      "vmap": jax.vmap(gradient)(jnp.stack([u, direction])),
      "through vmap": jax.grad(lambda both: jax.vmap(loss)(both).sum())(jnp.stack([u, direction])),
  }


@pytest.mark.parametrize("name", ["info_nce", "info_nce_symmetric_queue", "nt_xent", "kcl"])
def test_derivatives_of_every_kind_and_order_through_tiles_equal_the_dense_ones(name):
  with jax.enable_x64(True):
    u, v, y, q, t, w = batch(n=9)
    direction = np.random.default_rng(1).normal(size=u.shape)

    def loss(u, tile_size):
      return LOSSES[name](u, v, y, q, t, w, tile_size=tile_size)

    check_grads(lambda u: loss(u, 4), (u,), order=1, modes=["fwd", "rev"], atol=1e-6, rtol=1e-6)
    tiled, dense = jax.jit(lambda u: [
        derivatives(functools.partial(loss, tile_size=n), u, direction) for n in (4, 9)])(u)
  for kind in dense:
    np.testing.assert_allclose(tiled[kind], dense[kind], rtol=1e-9, atol=1e-12, err_msg=kind)


def test_forward_derivatives_go_round_the_ring():
  u, v, _, _, _, w = batch(n=16)
  direction = np.random.default_rng(1).normal(size=u.shape)

  def some(loss):
    gradient = jax.grad(loss)
    return jax.jvp(loss, (u,), (direction,))[1], jax.jvp(gradient, (u,), (direction,))[1]

  with jax.enable_x64(True):
    for name in ("nt_xent", "info_nce"):
      one = functools.partial(getattr(losses, name), where=w, tile_size=3)
      ring = losses.sharded(one, mesh_of(4))
      got, expected = jax.jit(lambda: (some(lambda u: ring(u, v)), some(lambda u: one(u, v, tile_size=16))))()
      assert_close(got, expected, 1e-10, name)


@pytest.mark.parametrize("name", ["info_nce", "nt_xent"])
def test_hessian_vector_products_need_linear_memory(name):
  n = 4096
  u, v = np.random.default_rng(0).normal(size=(2, n, 4)).astype(np.float32)
  loss = functools.partial(getattr(losses, name), tile_size=128)

  @jax.jit
  def product(u, direction):
    return jax.jvp(jax.grad(lambda u: loss(u, v)), (u,), (direction,))[1]

  assert product.lower(u, v).compile().memory_analysis().temp_size_in_bytes < 4 * n * n / 4


@pytest.mark.parametrize("name", ["info_nce", "nt_xent", "kcl"])
def test_bfloat16_products_stay_close(name):
  arguments = batch(n=96, dtype=np.float32)
  exact = value_and_gradients(arguments, name)
  rounded = value_and_gradients(arguments, name, matmul_dtype="bfloat16")
  assert abs(rounded[0] - exact[0]) < 1e-2 * abs(exact[0])
  for a, b in zip(rounded[1][:2], exact[1][:2]):
    assert np.linalg.norm(a - b) < 2e-2 * np.linalg.norm(b)
