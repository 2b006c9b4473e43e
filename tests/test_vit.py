"""Vision transformers and rematerialization: sizes of the papers, positions, memory, sharded parameters."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from spectral_jax.config import load_config
from spectral_jax.data import open_dataset
from spectral_jax.mesh import make_mesh
from spectral_jax.models import check_model, vit
from spectral_jax.models.resnet import BLOCKS, ResNet
from spectral_jax.training.batches.tables import epoch_indices
from spectral_jax.training.run import prepare


def config_of(**changes):
  config = load_config("digits")
  config.update_from_flattened_dict({
      "batch_size": 16, "model.encoder": "vit_ti", "model.patch_size": 4, "model.width": 0.0625,
      "model.projector_hidden": 16, "model.projector_dim": 8, "optimizer.warmup_epochs": 0,
      # AdamW would make steps of the rounding in the keys' shifts, whose gradient is zero.
      "optimizer.name": "sgd", "optimizer.learning_rate": 0.1,
      "augment.affine": {}, "augment.flip": True, **changes})
  return config


@pytest.mark.parametrize("size, published", [("vit_ti", 5_717_416), ("vit_s", 22_050_664), ("vit_b", 86_567_656)])
def test_parameter_counts(size, published):
  """Those of patch size 16 at 224 pixels, less the classification layer, its token and the learned positions."""
  channels, _ = vit.SIZES[size]
  x = jax.ShapeDtypeStruct((2, 224, 224, 3), jnp.float32)
  model = vit.ViT(size)
  features, variables = jax.eval_shape(functools.partial(model.init_with_output, train=True), jax.random.key(0), x)
  count = sum(leaf.size for leaf in jax.tree.leaves(variables))
  assert count == published - (channels * 1000 + 1000) - channels - 197 * channels
  assert features.shape == (2, channels) and features.dtype == jnp.float32


def test_positions_are_sines_and_cosines():
  rows, columns, channels = 3, 2, 12
  expected = np.zeros((rows * columns, channels))
  for y in range(rows):
    for x in range(columns):
      for k in range(3):
        w = 10_000 ** (-k / 2)
        expected[y * columns + x, k::3] = np.sin(x * w), np.cos(x * w), np.sin(y * w), np.cos(y * w)
  np.testing.assert_allclose(vit.sincos2d(rows, columns, channels), expected, atol=1e-6)
  assert np.isfinite(vit.sincos2d(1, 1, 4)).all()


def test_patches_hold_their_pixels():
  x = np.arange(2 * 4 * 6 * 3).reshape(2, 4, 6, 3)
  patches = vit._patches(jnp.asarray(x), 2)
  for i in range(2):
    for j in range(3):
      np.testing.assert_array_equal(patches[:, i, j], x[:, 2 * i:2 * i + 2, 2 * j:2 * j + 2].reshape(2, -1))


def test_where_a_patch_lies_matters(monkeypatch):
  monkeypatch.setattr(vit, "BLOCKS", 1)
  model = vit.ViT("vit_ti", patch_size=2, width=0.0625)
  x = jax.random.uniform(jax.random.key(0), (2, 4, 4, 1))
  variables = jax.jit(functools.partial(model.init, train=True))(jax.random.key(1), x)
  features = jax.jit(lambda x: model.apply(variables, x, False))
  assert np.abs(features(x) - features(x[:, ::-1])).max() > 1e-3


@pytest.mark.parametrize("make", [
    lambda remat: vit.ViT("vit_ti", patch_size=4, width=0.0625, remat=remat),
    lambda remat: ResNet("resnet18", width=1 / 16, remat=remat)], ids=["vit", "resnet"])
def test_remat_keeps_less_and_changes_nothing(make, monkeypatch):
  monkeypatch.setattr(vit, "BLOCKS", 1)
  monkeypatch.setitem(BLOCKS, "resnet18", (1, 1))
  x = jax.random.uniform(jax.random.key(0), (4, 8, 8, 1))
  variables = jax.jit(functools.partial(make(False).init, train=True))(jax.random.key(1), x)
  params, statistics = variables["params"], {k: v for k, v in variables.items() if k != "params"}

  def value(remat):
    def f(params):
      features, _ = make(remat).apply({"params": params, **statistics}, x, True, mutable=["batch_stats"])
      return jnp.sum(features**2)
    return f

  def kept(remat):
    residuals = jax.eval_shape(lambda params: jax.vjp(value(remat), params)[1], params)
    return sum(leaf.size for leaf in jax.tree.leaves(residuals))

  weights = sum(leaf.size for leaf in jax.tree.leaves(params))
  assert kept(True) - weights < 0.7 * (kept(False) - weights)
  assert jax.tree.structure(jax.eval_shape(functools.partial(make(True).init, train=True), jax.random.key(1), x)) == (
      jax.tree.structure(variables))
  plain, again = (jax.jit(jax.grad(value(remat)))(params) for remat in (False, True))
  scale = max(float(jnp.abs(leaf).max()) for leaf in jax.tree.leaves(plain))
  jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-5 * scale), plain, again)


def test_fully_sharded_parameters_make_the_same_step(monkeypatch):
  monkeypatch.setattr(vit, "BLOCKS", 1)
  mesh = make_mesh(devices=jax.devices()[:4])
  digits = open_dataset(config_of().data)
  table = epoch_indices(0, 0, digits.train.size, 16)[:2]

  def steps(rules):
    run = prepare(config_of(sharding=rules), digits, mesh)
    state = run.init()
    for batch in run.feed(table, 0):
      state, metrics = run.step(state, batch, False)
    return state, metrics

  (whole, metrics), (sharded, others) = steps(()), steps(((".*", "fsdp"),))
  kernel = sharded.learners["main"].params["model"]["encoder"]["block1"]["expand"]["kernel"]
  assert kernel.addressable_shards[0].data.size == kernel.size // 4
  assert float(metrics["loss"]) == pytest.approx(float(others["loss"]), rel=1e-4)
  for a, b in zip(jax.tree.leaves(jax.device_get(whole)), jax.tree.leaves(jax.device_get(sharded))):
    np.testing.assert_allclose(a, b, rtol=1e-3, atol=2e-5)


@pytest.mark.parametrize("changes, message", [
    ({"model.patch_size": 3}, "patch_size=3 does not divide images of 8x8"),
    ({"model.patch_size": 0}, "patch_size=0 does not divide"),
    ({"model.patch_size": 16}, "patch_size=16 does not divide"),
    ({"model.width": 0.05}, "gives vit_ti 10 channels; they must be a multiple of 12"),
    ({"model.encoder": "vit_xs"}, "Did you mean 'vit_s'"),
    ({"model.encoder": "convnet", "model.remat": True}, "which has no blocks"),
])
def test_bad_values_are_explained(changes, message):
  config = config_of(**changes)
  with pytest.raises(ValueError, match=message):
    check_model(config.model, config.data.image_size)
