"""The probes against scikit-learn, and frozen features against the model applied to all images at once."""

import os
import signal

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression

from spectral_jax import preemption
from spectral_jax.data import Split
from spectral_jax.evaluation import (
  few_shot_accuracy,
  linear_accuracy,
  split_features,
  split_images,
  split_pixels,
  spread,
)
from spectral_jax.evaluation.probes import draw_shots, fit
from spectral_jax.mesh import make_mesh, replicated

CLASSES, WIDTH = 3, 6


@pytest.fixture(scope="module")
def sets():
  """Overlapping classes, far from the origin and of unlike scales: neither probe should be perfect."""
  random = np.random.default_rng(0)
  centres = random.normal(size=(CLASSES, WIDTH))
  labels = random.integers(0, CLASSES, 400).astype(np.int32)
  z = 7 + 3 * (centres[labels] + random.normal(size=(400, WIDTH))).astype(np.float32)
  return z[:300], labels[:300], z[300:], labels[300:]


def standardized(train_z, test_z):
  mean, scale = train_z.mean(0), np.sqrt(train_z.var(0).mean())
  return (train_z - mean) / scale, (test_z - mean) / scale


@pytest.mark.parametrize("c", [0.01, 1.0])
def test_linear_probe_is_scikit_learns_logistic_regression(sets, c):
  train_z, train_y, test_z, test_y = sets
  x, test_x = standardized(train_z, test_z)
  reference = LogisticRegression(C=c, tol=1e-8, max_iter=1000).fit(x, train_y)
  w, b = jax.jit(fit, static_argnames=("num_classes", "steps"))(x, train_y, c, num_classes=CLASSES, steps=300)
  np.testing.assert_allclose(w.T, reference.coef_, atol=2e-3)
  np.testing.assert_allclose(b - b.mean(), reference.intercept_ - reference.intercept_.mean(), atol=2e-3)
  accuracy = float(linear_accuracy(*sets, num_classes=CLASSES, c=c))
  assert 0.6 < accuracy < 1 and accuracy == pytest.approx(reference.score(test_x, test_y), abs=0.011)


def test_a_probe_knows_nothing_of_the_test_set(sets):
  train_z, train_y, test_z, test_y = sets
  x, _ = standardized(train_z, test_z)
  reference = LogisticRegression(C=0.01, tol=1e-8, max_iter=1000).fit(x, train_y)
  far = 7 + 30 * (test_z - 7)
  accuracy = linear_accuracy(train_z, train_y, far, test_y, num_classes=CLASSES, c=0.01)
  assert float(accuracy) == pytest.approx(reference.score(standardized(train_z, far)[1], test_y), abs=0.011)


def test_the_scale_of_features_does_not_matter(sets):
  train_z, train_y, test_z, test_y = sets
  one, small = (float(linear_accuracy(scale * train_z, train_y, scale * test_z, test_y, num_classes=CLASSES, c=0.01))
                for scale in (1.0, 2.0**-10))
  assert one == small


def test_a_probe_that_is_asked_to_stop_does_so_between_its_pieces(sets):
  with preemption.watched():
    os.kill(os.getpid(), signal.SIGTERM)
    with pytest.raises(preemption.Preempted):
      # It converges early and then looks on, for longer than the signal needs.
      linear_accuracy(*sets, num_classes=CLASSES, steps=10**6)


def test_few_shot_probe_averages_regressions_on_the_drawn_examples(sets):
  train_z, train_y, test_z, test_y = sets
  x, test_x = standardized(train_z, test_z)
  index, _ = draw_shots(train_y, CLASSES, 5, 10, seed=0)
  expected = np.mean([LogisticRegression().fit(x[i], train_y[i]).score(test_x, test_y) for i in index])
  accuracy = few_shot_accuracy(*sets, num_classes=CLASSES, shots=5, draws=10)
  assert float(accuracy) == pytest.approx(expected, abs=0.005)


def test_drawn_shots_are_of_their_class_and_differ():
  labels = np.array([0, 0, 0, 0, 1, 1, 1, 2])
  index, mask = draw_shots(labels, 3, 2, 20, seed=1)
  assert index.shape == mask.shape == (20, 6)
  assert (labels[index][mask > 0] == np.tile([0, 0, 1, 1, 2], 20)).all()  # class 2 has one example
  assert all(len(set(row[m > 0])) == 5 for row, m in zip(index, mask))
  assert len({tuple(row) for row in index}) > 5


def test_constant_features_are_scored_at_chance(sets):
  _, train_y, _, test_y = sets
  accuracy = float(linear_accuracy(np.ones((300, 2)), train_y, np.ones((100, 2)), test_y, num_classes=CLASSES))
  assert accuracy == pytest.approx(max(np.bincount(test_y)) / 100, abs=0.2)


@pytest.mark.parametrize("devices, batch_size", [(1, 4), (8, 16), (8, 100)])
def test_features_do_not_depend_on_batches_or_devices(devices, batch_size):
  images = np.random.default_rng(0).integers(0, 256, (21, 4, 4, 1), np.uint8)
  split = Split(np.zeros(21, np.int32), 4, pixels=images)
  mesh = make_mesh(devices=jax.devices()[:devices])
  encode = jax.jit(lambda variables, x: (x.reshape(len(x), -1) * variables, x[:, 0, 0] * 1.0),
                   out_shardings=replicated(mesh))
  chosen = spread(21, 13)
  features, projections = split_features(encode, jnp.float32(2), split, chosen, batch_size=batch_size, mesh=mesh)
  np.testing.assert_array_equal(features, images[chosen].reshape(13, -1) * 2.0)
  np.testing.assert_array_equal(projections, images[chosen][:, 0, 0])
  np.testing.assert_array_equal(split_images(split, chosen), images[chosen])


def test_no_examples_are_answered():
  split = Split(np.zeros(3, np.int32), 4, pixels=np.zeros((3, 4, 4, 1), np.uint8))
  for read in (split_images, split_pixels, lambda *a: split_features(None, None, *a, batch_size=2, mesh=make_mesh())):
    with pytest.raises(ValueError, match="indices must name at least one example"):
      read(split, np.arange(0))


def test_pixels_of_large_images_are_averaged_down():
  images = np.random.default_rng(0).integers(0, 256, (5, 9, 9, 3), np.uint8)
  split = Split(np.zeros(5, np.int32), 9, pixels=images)
  np.testing.assert_allclose(split_pixels(split, np.arange(5)), images.reshape(5, -1) / 255, atol=1e-6)
  blocks = images[:, :8, :8].reshape(5, 4, 2, 4, 2, 3).mean(axis=(2, 4))
  shrunk = split_pixels(split, np.arange(5), side=4)
  np.testing.assert_allclose(shrunk, blocks.reshape(5, -1) / 255, atol=0.5 / 255 + 1e-6)


def test_spread_covers_examples_sorted_by_class():
  assert spread(5).tolist() == [0, 1, 2, 3, 4]
  chosen = spread(1000, 100)
  assert len(set(chosen)) == 100 and np.bincount(chosen // 100).tolist() == [10] * 10
