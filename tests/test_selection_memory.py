"""Selection from banks of a million rows: what the optimized program needs besides the bank."""

import jax
import jax.numpy as jnp
import pytest

from spectral_jax import selection

OPTIMIZED = True  # long loops, or sizes that the compiler decides


def test_memory_is_linear_in_a_bank_of_a_million():
  """Compiled, not run: 16 batches of 4,096 built together, and an epoch of them, from 1.3 million x 128."""
  bank = jax.ShapeDtypeStruct((1_300_000, 128), jnp.float32)
  keys = jax.eval_shape(lambda: jax.random.split(jax.random.key(0), 16))
  together = jax.jit(jax.vmap(lambda key, bank: selection.greedy_batch(key, bank, 4096), (0, None)))
  epoch = jax.jit(lambda keys, bank: selection.epoch_batches(keys[0], bank, 4096))
  for compiled in (together.lower(keys, bank).compile(), epoch.lower(keys, bank).compile()):
    assert compiled.memory_analysis().temp_size_in_bytes < 1_300_000 * 128 * 4


@pytest.mark.parametrize("rule, coverage", [
    ("cluster", "balanced"), ("gcbs", "balanced"), ("b3", "balanced"), ("spectral", "balanced"),
    ("submodular", "balanced"), ("submodular", "independent"), ("jest", "oversampled")])
def test_memory_of_the_published_rules_is_linear(rule, coverage):
  """Compiled, not run, for 1.3 million x 128: a few times the bank. One byte for each pair would be 2,500 times."""
  m = 1_300_000
  bank = jax.ShapeDtypeStruct((m, 128), jnp.float32)
  key = jax.eval_shape(lambda: jax.random.key(0))
  epoch = jax.jit(lambda key, bank: selection.epoch_batches(
      key, bank, 256, rule=rule, coverage=coverage, reference=bank if rule == "jest" else None))
  temporaries = epoch.lower(key, bank).compile().memory_analysis().temp_size_in_bytes
  print(rule, coverage, temporaries / (m * 128 * 4))
  assert temporaries < 8 * m * 128 * 4
