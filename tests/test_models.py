"""Encoders and projectors: sizes known from the papers, dtypes, and statistics over a sharded batch."""

import jax
import jax.numpy as jnp
import ml_collections
import numpy as np
import pytest
from jax.sharding import AxisType, NamedSharding, PartitionSpec as P

from spectral_jax.models import build_model, make_encode
from spectral_jax.models.resnet import BasicBlock, BottleneckBlock


def config(**changes):
  return ml_collections.ConfigDict(dict(
      encoder="convnet", stem="cifar", patch_size=16, width=1.0, remat=False, projector_layers=2, projector_hidden=0,
      projector_dim=16, dtype="float32") | changes)


def shapes(settings, image_shape):
  """The variables' shapes and the outputs', without computing anything."""
  model = build_model(settings)
  x = jax.ShapeDtypeStruct((2, *image_shape), jnp.float32)
  outputs, variables = jax.eval_shape(model.init_with_output, jax.random.key(0), x)
  return variables, outputs


def count(tree):
  return sum(leaf.size for leaf in jax.tree.leaves(tree))


@pytest.mark.parametrize("encoder, stem, parameters, features", [
    # torchvision's counts, 11,689,512, 21,797,672 and 25,557,032, less the layer from 512 or 2,048 to 1,000 classes.
    ("resnet18", "imagenet", 11_689_512 - 513_000, 512),
    ("resnet34", "imagenet", 21_797_672 - 513_000, 512),
    ("resnet50", "imagenet", 25_557_032 - 2_049_000, 2048),
    # The CIFAR stem has 3x3 instead of 7x7 weights.
    ("resnet18", "cifar", 11_689_512 - 513_000 - 64 * 3 * (49 - 9), 512),
    ("resnet50", "cifar", 25_557_032 - 2_049_000 - 64 * 3 * (49 - 9), 2048),
])
def test_parameter_counts(encoder, stem, parameters, features):
  size = 32 if stem == "cifar" else 224
  variables, (feature, projection) = shapes(config(encoder=encoder, stem=stem), (size, size, 3))
  assert count(variables["params"]["encoder"]) == parameters
  assert feature.shape == (2, features) and projection.shape == (2, 16)


def test_width_multiplies_channels():
  narrow, (feature, _) = shapes(config(encoder="resnet18", width=0.5), (32, 32, 3))
  assert feature.shape == (2, 256)
  assert narrow["params"]["encoder"]["stem"]["kernel"].shape == (3, 3, 3, 32)
  assert shapes(config(width=2.0), (8, 8, 1))[1][0].shape == (2, 1024)


def test_projector_layers():
  for layers in (1, 2, 3):
    variables, (feature, projection) = shapes(config(projector_layers=layers, projector_hidden=24), (8, 8, 1))
    kernels = [leaf.shape for leaf in jax.tree.leaves(variables["params"]["projector"]) if len(leaf.shape) == 2]
    sizes = [feature.shape[1]] + [24] * (layers - 1) + [16]
    assert sorted(kernels) == sorted(zip(sizes, sizes[1:])) and projection.shape == (2, 16)
  hidden = shapes(config(), (8, 8, 1))[0]["params"]["projector"]["hidden1"]["kernel"]
  assert hidden.shape == (512, 512)


@pytest.mark.parametrize("encoder", ["convnet", "resnet18", "resnet50", "vit_s"])
def test_bfloat16_computes_but_does_not_store(encoder):
  variables, outputs = shapes(config(encoder=encoder, dtype="bfloat16", projector_layers=3), (16, 16, 3))
  assert {leaf.dtype for leaf in jax.tree.leaves((variables, outputs))} == {jnp.dtype("float32")}


@pytest.fixture(scope="module")
def trained():
  """A small network, a batch, and its training forward pass on one device."""
  model = build_model(config(width=0.5))
  x = jax.random.uniform(jax.random.key(1), (16, 8, 8, 1))
  variables = jax.jit(model.init)(jax.random.key(0), x)
  weights = jax.random.normal(jax.random.key(2), (16, 16))

  def value(params, x):
    (features, projections), state = model.apply(
        {"params": params, "batch_stats": variables["batch_stats"]}, x, train=True, mutable=["batch_stats"])
    return jnp.sum(projections * weights), (features, state)

  return model, variables, x, jax.value_and_grad(value, has_aux=True)


@pytest.mark.parametrize("devices", [2, 8])
def test_a_sharded_batch_has_the_statistics_of_the_whole(trained, devices):
  _, variables, x, step = trained
  (value, (features, state)), gradient = jax.jit(step)(variables["params"], x)
  mesh = jax.make_mesh((devices,), ("data",), axis_types=(AxisType.Auto,), devices=jax.devices()[:devices])
  sharded = jax.device_put(x, NamedSharding(mesh, P("data")))
  params = jax.device_put(variables["params"], NamedSharding(mesh, P()))
  (value_s, (features_s, state_s)), gradient_s = jax.jit(step)(params, sharded)
  np.testing.assert_allclose(value_s, value, rtol=1e-4, atol=1e-4)
  np.testing.assert_allclose(features_s, features, rtol=1e-4, atol=1e-5)
  jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6), state_s, state)
  scale = max(float(jnp.abs(leaf).max()) for leaf in jax.tree.leaves(gradient))
  jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=2e-5 * scale), gradient_s, gradient)


def test_evaluation_uses_running_statistics(trained):
  model, variables, x, step = trained
  (_, (_, state)), _ = jax.jit(step)(variables["params"], x)
  mean = state["batch_stats"]["encoder"]["norm1"]["mean"]
  first = variables["params"]["encoder"]["conv1"]["kernel"]
  maps = jax.lax.conv_general_dilated(x, first, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC"))
  np.testing.assert_allclose(mean, 0.1 * maps.mean((0, 1, 2)), atol=1e-5)
  evaluate = jax.jit(lambda x: model.apply(variables, x, train=False)[0])
  np.testing.assert_allclose(evaluate(x)[:4], evaluate(x[:4]), atol=1e-5)


@pytest.mark.parametrize("encoder, width", [
    ("convnet", 0.25), ("resnet18", 1.0), ("resnet18", 0.125), ("resnet34", 0.125), ("resnet50", 0.125), ("vit_ti", 0.25)])
def test_no_images_make_no_rows_and_cannot_be_trained_on(encoder, width):
  model = build_model(config(encoder=encoder, width=width, patch_size=8))
  variables = jax.eval_shape(model.init, jax.random.key(0), jax.ShapeDtypeStruct((2, 16, 16, 3), jnp.float32))
  none = jax.ShapeDtypeStruct((0, 16, 16, 3), jnp.uint8)
  features, projections = jax.eval_shape(make_encode(model), variables, none)
  assert features.shape[0] == 0 < features.shape[1] and projections.shape == (0, 16)
  with pytest.raises(ValueError, match="train=True needs at least one image, got the shape .0, 16, 16, 3."):
    jax.eval_shape(lambda v, x: model.apply(v, x, train=True, mutable=["batch_stats"]), variables, none)


@pytest.mark.parametrize("block", [BasicBlock, BottleneckBlock])
def test_a_residual_block_starts_as_its_shortcut(block):
  x = jax.random.normal(jax.random.key(0), (2, 4, 4, 8))
  layer = block(8 // block.expansion, 1)
  variables = jax.jit(layer.init, static_argnums=2)(jax.random.key(1), x, True)
  output, _ = jax.jit(lambda v, x: layer.apply(v, x, True, mutable=["batch_stats"]))(variables, x)
  np.testing.assert_array_equal(output, jnp.maximum(x, 0))


@pytest.mark.parametrize("changes, message", [
    (dict(encoder="resnet81"), "config.model.encoder='resnet81' is not known. Did you mean 'resnet18'"),
    (dict(encoder="convnet", stem="cifar10"), "Did you mean 'cifar'"),
    (dict(dtype="float16"), "config.model.dtype"),
    (dict(width=0.0), "config.model.width=0.0 leaves"),
    (dict(width=float("nan")), "config.model.width=nan leaves"),
    (dict(width=1e9), "config.model.width=1000000000.0 makes a layer of 32,000,000,000 channels; the most is 65,536"),
    (dict(projector_hidden=10**12), "config.model.projector_hidden=1000000000000 makes a layer"),
    (dict(projector_dim=0), "config.model.projector_dim must be positive"),
    (dict(projector_layers=4), "must be 1, 2 or 3"),
])
def test_bad_values_are_explained(changes, message):
  with pytest.raises(ValueError, match=message):
    build_model(config(**changes))
