"""The kernels for GPUs, interpreted on CPU: they add up what the tiles add up, and they can be compiled for a GPU."""

import functools
import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AbstractDevice, AbstractMesh, AxisType, PartitionSpec

from spectral_jax.losses import _engine, _kernel
from spectral_jax.losses._pairs import Plan, make_rows
from spectral_jax.losses._statistics import KernelSum, LogSumExp, ScoreSum

KERNEL = "triton" if jax.default_backend() == "gpu" else "interpret"  # JAX_PLATFORMS=cuda runs what is compiled
STATISTICS = {
    "log-sum-exp": LogSumExp(), "softplus": ScoreSum(jax.nn.softplus), "square": ScoreSum(jnp.square),
    "gaussian": KernelSum(lambda r: jnp.exp(-r))}


def plan_for(name, kernel, **changes):
  return Plan(statistic=STATISTICS[name], matmul_dtype="bfloat16", tile=48, form="tiled", kernel=kernel, **changes)


def rows_of(seed, n, d=5):
  random = np.random.default_rng(seed)
  x = jnp.asarray(random.normal(size=(n, d)), jnp.float32)
  return make_rows(x, jnp.asarray(random.integers(0, n // 2, n), jnp.int32), jnp.asarray(random.random(n) > 0.2))


def weighted(values, rows):
  """A scalar that every row's value enters with a weight of its own."""
  weights = jnp.linspace(0.5, 1.5, values.shape[0])
  return jnp.where(rows.valid & (values > -jnp.inf), weights * values, 0.0).sum()


def of_within(plan, rows):
  return jax.value_and_grad(lambda x: weighted(_engine.within(plan.statistic, moved(rows, x), plan), rows))(rows.x)


def of_across(plan, rows, cols, columns):
  def total(x, y):
    a, b = moved(rows, x), moved(cols, y)
    made = _engine.across(plan.statistic, a, b, plan, columns)
    of_rows, of_cols = made if columns else (made, None)
    return weighted(of_rows, rows) + (weighted(of_cols, cols) if columns else 0.0)
  return jax.value_and_grad(total, (0, 1))(rows.x, cols.x)


def moved(rows, x):
  return make_rows(x, rows.group, rows.valid)


def assert_like(got, expected):
  # The order of the sums differs, and with it the slopes' last bit before they are rounded to 8 bits.
  for a, b in zip(jax.tree.leaves(got), jax.tree.leaves(expected)):
    a, b = np.asarray(a, float), np.asarray(b, float)
    assert np.abs(a - b).max() <= 4e-3 * np.abs(b).max()


@pytest.fixture(autouse=True)
def small_blocks(monkeypatch):
  monkeypatch.setattr(
      _kernel, "BLOCKS", {"gather": _kernel.Blocks(16, 32, 4, 2), "scatter": _kernel.Blocks(32, 16, 4, 2)})
  monkeypatch.setattr(_kernel, "PROGRAMS", 16)


@pytest.mark.parametrize("name", STATISTICS)
def test_kernels_give_the_values_and_gradients_of_tiles(name):
  rows, cols = rows_of(0, 150), rows_of(1, 70)

  @jax.jit
  def run():
    return [[of_within(plan, rows), of_across(plan, rows, cols, True), of_across(plan, rows, cols, False)]
            for plan in (plan_for(name, KERNEL), plan_for(name, None))]

  got, expected = run()
  assert_like(got, expected)


def test_nothing_but_rounding_separates_the_kernels_from_float64():
  rows = rows_of(0, 60)
  x = np.asarray(rows.x.astype(jnp.bfloat16), float)
  s = x @ x.T
  counts = (np.asarray(rows.group)[:, None] != np.asarray(rows.group)) & np.asarray(rows.valid)
  expected = [np.log(sum(np.exp(s[i, j]) for j in range(60) if counts[i, j])) for i in range(60) if rows.valid[i]]
  got = _engine.within(LogSumExp(), rows, plan_for("log-sum-exp", KERNEL))
  np.testing.assert_allclose(got[rows.valid], expected, rtol=1e-6)
  assert np.all(np.asarray(got)[~np.asarray(rows.valid)] == -np.inf)


def ring_of(plan, mesh, check_vma):
  def of_device(rows, cols):
    within = _engine.within(plan.statistic, rows, plan)
    return within, *_engine.across(plan.statistic, rows, cols, plan, True)

  return jax.shard_map(of_device, mesh=mesh, in_specs=(PartitionSpec("data"),) * 2, out_specs=PartitionSpec("data"),
                       check_vma=check_vma)


@pytest.mark.parametrize("devices", [2, 4, 8])
def test_kernels_go_round_the_ring(devices):
  if devices > jax.device_count():
    pytest.skip(f"needs {devices} devices")
  mesh = jax.make_mesh((devices,), ("data",), axis_types=(AxisType.Auto,), devices=jax.devices()[:devices])
  rows, cols = rows_of(0, 64), rows_of(1, 64)
  plan = plan_for("log-sum-exp", KERNEL, axis_name="data")

  # JAX's interpreter of kernels knows no varying axes; what is compiled for a GPU does.
  ring = ring_of(plan, mesh, check_vma=False)

  def total(x, y, values):
    a, b = moved(rows, x), moved(cols, y)
    return sum(weighted(v, r) for v, r in zip(values(a, b), (rows, rows, cols)))

  one = plan_for("log-sum-exp", None)
  alone = lambda a, b: (_engine.within(one.statistic, a, one), *_engine.across(one.statistic, a, b, one, True))
  run = jax.jit(lambda values: jax.value_and_grad(functools.partial(total, values=values), (0, 1))(rows.x, cols.x),
                static_argnums=0)
  assert_like(run(ring), run(alone))


def test_second_and_mapped_derivatives_are_those_of_tiles():
  rows = rows_of(0, 40)

  @functools.partial(jax.jit, static_argnums=0)
  def derivatives(plan):
    gradient = lambda x: of_within(plan, moved(rows, x))[1]
    return {"hessian": jax.jvp(gradient, (rows.x,), (rows.x[::-1],))[1],
            "reverse": jax.grad(lambda x: jnp.vdot(gradient(x), rows.x[::-1]))(rows.x),
            "vmap": jax.vmap(gradient)(jnp.stack([rows.x, rows.x[::-1]]))}

  assert_like(derivatives(plan_for("log-sum-exp", KERNEL)), derivatives(plan_for("log-sum-exp", None)))


def test_nan_comes_out_and_masked_nan_does_not():
  rows = rows_of(0, 40)
  plan = plan_for("log-sum-exp", KERNEL)
  for i, spreads in ((int(np.argmax(rows.valid)), True), (int(np.argmin(rows.valid)), False)):
    got = _engine.within(plan.statistic, rows._replace(x=rows.x.at[i].set(np.nan)), plan)
    assert bool(np.isnan(got).any()) == spreads


def devices_of(count, platform, kind):
  """A mesh of devices that this machine need not have, for programs that are lowered only."""
  device = AbstractDevice(device_kind=kind, num_cores=1, platform=platform)
  return AbstractMesh((count,), ("data",), axis_types=(AxisType.Auto,), abstract_device=device)


@pytest.mark.parametrize("name", STATISTICS)
def test_kernels_can_be_lowered_for_a_gpu(name):
  rows, cols = rows_of(0, 150), rows_of(1, 70)
  plan = plan_for(name, "triton")
  with jax.sharding.use_abstract_mesh(devices_of(1, "gpu", "NVIDIA H200")):
    text = jax.jit(lambda: (of_within(plan, rows), of_across(plan, rows, cols, True))).trace().lower(
        lowering_platforms=("cuda",)).as_text()
  assert text.count("gather_pairs") >= 3 and text.count("scatter_pairs") >= 3


def test_kernels_can_be_lowered_for_a_tpu(monkeypatch):
  block = _kernel.Blocks(256, 256, 0, 0)
  monkeypatch.setattr(_kernel, "BLOCKS", {"gather": block, "scatter": block})
  rows = rows_of(0, 600, d=128)
  with jax.sharding.use_abstract_mesh(devices_of(1, "tpu", "TPU v5e")):
    lowered = jax.jit(lambda: of_within(plan_for("log-sum-exp", "mosaic"), rows)).trace().lower(
        lowering_platforms=("tpu",))
  assert lowered.as_text().count("tpu_custom_call") == 2


def test_kernels_of_a_ring_can_be_lowered_for_gpus():
  mesh = devices_of(4, "gpu", "NVIDIA H200")
  ring = ring_of(plan_for("log-sum-exp", "triton", axis_name="data"), mesh, check_vma=True)
  rows = rows_of(0, 64)
  gradient = jax.grad(lambda x: sum(weighted(v, rows) for v in ring(moved(rows, x), rows)))
  with jax.sharding.use_abstract_mesh(mesh):
    text = jax.jit(gradient).trace(rows.x).lower(lowering_platforms=("cuda",)).as_text()
  assert "gather_pairs" in text and "scatter_pairs" in text


@pytest.mark.parametrize("capability, has", [("9.0", True), ("12.0", True), ("7.5", False), ("gfx942", False)])
def test_kernels_are_for_16_bits_on_a_gpu_that_has_them(monkeypatch, capability, has):
  x, half = jnp.ones((4, 128)), Plan(matmul_dtype="bfloat16")
  assert KERNEL == "triton" or _kernel.backend(half, x) is None
  monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
  monkeypatch.setattr(jax, "local_devices", lambda: [types.SimpleNamespace(compute_capability=capability)])
  assert _kernel.backend(half, x) == _engine.settle(half, x).kernel == ("triton" if has else None)
  assert _engine.settle(half._replace(tile=2), x).kernel is None  # who names a tile gets tiles
  for plan, rows in ((Plan(matmul_dtype="float32"), x), (Plan(), x), (half, jnp.ones((4, 512)))):
    assert _kernel.backend(plan, rows) is None
