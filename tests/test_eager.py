"""Eager calls: compiled once for their shapes and settings, and never again."""

import contextlib
import functools
import statistics
import time

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from spectral_jax import _arrays, _eager, losses

OPTIMIZED = True  # times are compared

U, V, Q = np.random.default_rng(0).normal(size=(3, 40, 6)).astype(np.float32)
LABELS = np.arange(40) % 5
CALLS = {
    "info_nce": lambda **k: losses.info_nce(U, V, negatives=Q, **k),
    "info_nce symmetric": lambda **k: losses.info_nce(U, V, symmetric=True, temperature=0.2, **k),
    "nt_xent": lambda **k: losses.nt_xent(U, V, **k),
    "dcl": lambda **k: losses.dcl(U, V, where=np.arange(40) > 3, **k),
    "dhel": lambda **k: losses.dhel(U, V, energy="sum", reduction="none", **k),
    "kcl": lambda **k: losses.kcl(U, V, kernel=losses.kernels.log(2.0), align_kernel=losses.kernels.gaussian(1.0), **k),
    "nscl": lambda **k: losses.nscl(U, V, LABELS, **k),
    "supcon": lambda **k: losses.supcon(U, V, LABELS, **k),
    "gradient": lambda **k: jax.grad(functools.partial(losses.nt_xent, **k))(U, V),
    "sharded": lambda **k: losses.sharded(functools.partial(losses.nt_xent, **k), mesh())(U, V, temperature=0.2),
}


def mesh():
  return jax.make_mesh((2,), ("data",), devices=jax.devices()[:2])


@contextlib.contextmanager
def compilations():
  """A list of one entry per program that the backend is asked to compile."""
  seen = []

  def listen(event, *_, **__):
    if event == "/jax/core/compile/backend_compile_duration":
      seen.append(event)

  jax.monitoring.register_event_duration_secs_listener(listen)
  try:
    yield seen
  finally:
    jax.monitoring.unregister_event_duration_listener(listen)


@pytest.mark.parametrize("name", CALLS)
def test_a_second_call_compiles_nothing(name):
  with compilations() as first:
    expected = CALLS[name](tile_size=16)
  assert first  # the listener hears compilations
  with compilations() as second:
    again = CALLS[name](tile_size=16)
  assert not second
  np.testing.assert_array_equal(again, expected)


def test_another_temperature_or_an_equal_kernel_compiles_nothing():
  losses.nt_xent(U, V, temperature=0.3)
  losses.kcl(U, V, kernel=losses.kernels.imq(0.3))
  with compilations() as seen:
    values = [losses.nt_xent(U, V, temperature=t) for t in (0.1, 0.2)]
    losses.kcl(U, V, kernel=losses.kernels.imq(0.3))
  assert not seen and values[0] != values[1]


def test_an_eager_call_takes_little_longer_than_a_jitted_one():
  n = 256
  u, v = jnp.asarray(np.random.default_rng(1).normal(size=(2, n, 16)), jnp.float32)
  loss = functools.partial(losses.nt_xent, tile_size=64)
  forms = {"eager": loss, "jitted": jax.jit(loss)}
  times = {name: [] for name in forms}
  for name, call in 21 * list(forms.items()):
    start = time.perf_counter()
    call(u, v).block_until_ready()
    times[name].append(time.perf_counter() - start)
  eager, jitted = (statistics.median(times[name][1:]) for name in ("eager", "jitted"))
  assert eager <= 2 * jitted + 1e-3


@_eager.compiled("power", scale=_arrays.positive)
def scaled_power(x, where=None, *, scale=1.0, power=2):
  if scale is None:
    raise TypeError("scale must be a number")
  x = jnp.asarray(x)
  kept = jnp.ones(x.shape, bool) if where is None else where
  return scale * jnp.sum(jnp.where(kept, x ** power, 0.0))


def test_the_decorator_keeps_name_signature_errors_and_transformations():
  assert scaled_power.__name__ == "scaled_power" and "power" in scaled_power.__wrapped__.__kwdefaults__
  x = jnp.arange(3.0)
  assert scaled_power(x) == 5 and scaled_power([0.0, 1.0, 2.0]) == 5
  assert scaled_power(x, x > 1, power=3) == 8
  np.testing.assert_allclose(jax.vmap(lambda s: scaled_power(x, scale=s))(jnp.arange(1.0, 3.0)), [5, 10])
  np.testing.assert_allclose(jax.jit(jax.grad(scaled_power))(x), 2 * x)
  assert jax.jit(lambda s: scaled_power(x, scale=s))(-1.0) == -5  # unknown values are not checked
  with pytest.raises(ValueError, match="scale must be a positive finite number, got -1"):
    scaled_power(x, scale=-1.0)
  with pytest.raises(TypeError, match=r"scaled_power\(\) missing 1 required positional argument: 'x'"):
    scaled_power()
  with pytest.raises(TypeError, match="unexpected keyword argument 'pover'"):
    scaled_power(x, pover=1)
