r"""Linear classifiers on frozen features, fitted with the whole training set in one batch on the device.

Both minimize multinomial logistic regression in scikit-learn's parametrization,

$$ \tfrac12 \|W\|^2 + C \sum_i -\log \operatorname{softmax}(W^\top x_i + b)_{y_i}, $$

by L-BFGS, on features centered and divided by one common scale (the root of the mean variance), so that raw pixels
and features of any size meet the same regularization.
"""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import lax

from spectral_jax import preemption

if TYPE_CHECKING:
  from typing import Any

  from jaxtyping import Array, ArrayLike, Float, Int

# L-BFGS stops where no entry of the objective's gradient per example exceeds this.
TOLERANCE = 1e-5
# L-BFGS steps between two looks at whether the run was asked to stop: on ImageNet-1k all of them take minutes.
PIECE = 20


def linear_accuracy(train_z: Float[ArrayLike, "n d"], train_y: Int[ArrayLike, " n"], test_z: Float[ArrayLike, "m d"],
                    test_y: Int[ArrayLike, " m"], *, num_classes: int, c: float = 1.0,
                    steps: int = 300) -> Float[Array, ""]:
  """Accuracy on the test set of a logistic regression fitted to the whole training set.

  Args:
    train_z: `(m, d)` features of the training set.
    train_y: `(m,)` integer classes below `num_classes`.
    test_z: `(n, d)` features of the test set.
    test_y: `(n,)` integer classes.
    num_classes: number of classes.
    c: inverse L2 strength, as scikit-learn's `C`, whose default 1.0 it shares.
    steps: most L-BFGS steps.

  Returns:
    A float32 scalar in [0, 1].

  >>> import jax.numpy as jnp
  >>> z, y = jnp.eye(3), jnp.arange(3)
  >>> print(linear_accuracy(z, y, z, y, num_classes=3))
  1.0
  """
  train_z, test_z, carry = _begin(train_z, test_z, num_classes=num_classes)
  # As many looks as there are pieces, also where it converges early: several processes look together.
  for done in range(0, steps, PIECE):
    preemption.check()
    carry = jax.block_until_ready(_piece(carry, train_z, jnp.asarray(train_y), c, min(done + PIECE, steps)))
  return _share_right(carry[0], test_z, jnp.asarray(test_y))


@functools.partial(jax.jit, static_argnames="num_classes")
def _begin(train_z, test_z, *, num_classes):
  train_z, test_z = _standardize(train_z, test_z)
  return train_z, test_z, _first(train_z, num_classes)


@jax.jit
def _piece(carry, train_z, train_y, c, steps):
  return _descend(carry, train_z, train_y, c, steps)


@jax.jit
def _share_right(weights, test_z, test_y):
  return jnp.mean(predict(weights, test_z) == test_y)


def few_shot_accuracy(train_z: Float[ArrayLike, "n d"], train_y: Int[ArrayLike, " n"], test_z: Float[ArrayLike, "m d"],
                      test_y: Int[ArrayLike, " m"], *, num_classes: int, shots: int = 5, draws: int = 50,
                      c: float = 1.0, steps: int = 60, seed: int = 0) -> Float[Array, ""]:
  """Mean accuracy of logistic regressions fitted to `shots` labeled examples a class, over random draws of them.

  The features are standardized with the statistics of the whole (unlabeled) training set. Draws depend on `seed` and
  the labels alone, so that several representations are scored on the same examples.

  Args:
    train_z: `(m, d)` features to draw from.
    train_y: `(m,)` integer classes below `num_classes`.
    test_z: `(n, d)` features of the test set.
    test_y: `(n,)` integer classes.
    num_classes: number of classes.
    shots: labeled examples a class; a smaller class gives all that it has.
    draws: how many random draws are averaged.
    c: inverse L2 strength, as scikit-learn's `C`.
    steps: most L-BFGS steps.
    seed: of the draws.

  Returns:
    A float32 scalar in [0, 1].
  """
  index, mask = draw_shots(np.asarray(train_y), num_classes, shots, draws, seed)
  return _few_shot(train_z, train_y, test_z, test_y, index, mask, c, num_classes=num_classes, steps=steps)


@functools.partial(jax.jit, static_argnames=("num_classes", "steps"))
def _few_shot(train_z, train_y, test_z, test_y, index, mask, c, *, num_classes, steps):
  train_z, test_z = _standardize(train_z, test_z)

  def one(draw):
    chosen, counts = draw
    weights = fit(train_z[chosen], train_y[chosen], c, num_classes=num_classes, steps=steps, weight=counts)
    return jnp.mean(predict(weights, test_z) == test_y)

  return jnp.mean(lax.map(one, (index, mask), batch_size=10))


def draw_shots(labels: np.ndarray, num_classes: int, shots: int, draws: int,
               seed: int) -> tuple[np.ndarray, np.ndarray]:
  """Returns indices `(draws, num_classes * shots)` and a float mask that drops what a small class cannot give."""
  generator = np.random.default_rng(seed)
  index = np.zeros((draws, num_classes, shots), np.int32)
  mask = np.zeros((draws, num_classes, shots), np.float32)
  members = [np.flatnonzero(labels == y) for y in range(num_classes)]
  for draw in range(draws):
    for y, of_class in enumerate(members):
      chosen = generator.permutation(of_class)[:shots]
      index[draw, y, :len(chosen)] = chosen
      mask[draw, y, :len(chosen)] = 1
  return index.reshape(draws, -1), mask.reshape(draws, -1)


def fit(x: Float[Array, "n d"], y: Int[Array, " n"], c: float, *, num_classes: int, steps: int,
        weight: Float[Array, " n"] | None = None) -> Any:
  """Returns `(W, b)` of the logistic regression above; `weight` `(m,)` counts each example that often."""
  return _descend(_first(x, num_classes), x, y, c, steps, weight)[0]


def _solver():
  # On a convex objective backtracking is enough, and it compiles several times faster than a zoom line search.
  return optax.lbfgs(linesearch=optax.scale_by_backtracking_linesearch(max_backtracking_steps=15, store_grad=True))


def _first(x, num_classes):
  """Weights of zero and the solver's first state."""
  start = (jnp.zeros((x.shape[1], num_classes), x.dtype), jnp.zeros(num_classes, x.dtype))
  # Of the types that a step leaves: the solver's own zeros are weakly typed, and the second piece was another program.
  return start, jax.tree.map(lambda x: lax.convert_element_type(x, x.dtype), _solver().init(start))


def _descend(carry, x, y, c, steps, weight=None):
  """Goes on from weights and solver's state until `steps` steps have been made in all, or it has converged."""
  weight = jnp.ones(x.shape[0], x.dtype) if weight is None else weight
  # Divided by the number of examples: same minimizer, and a tolerance that means the same at any size.
  scale = 1 / (c * jnp.sum(weight))

  def objective(parameters):
    w, b = parameters
    losses = optax.softmax_cross_entropy_with_integer_labels(x @ w + b, y)
    return jnp.sum(losses * weight) * c * scale + 0.5 * scale * jnp.sum(w * w)

  solver = _solver()
  value_and_gradient = optax.value_and_grad_from_state(objective)

  def advance(carry):
    parameters, state = carry
    value, gradient = value_and_gradient(parameters, state=state)
    update, state = solver.update(gradient, state, parameters, value=value, grad=gradient, value_fn=objective)
    return optax.apply_updates(parameters, update), state

  def unfinished(carry):
    state = carry[1]
    count, gradient = optax.tree.get(state, "count"), optax.tree.get(state, "grad")
    largest = jnp.max(jnp.stack([jnp.max(jnp.abs(g)) for g in jax.tree.leaves(gradient)]))
    return (count < steps) & ((count == 0) | (largest > TOLERANCE))

  return lax.while_loop(unfinished, advance, carry)


def predict(weights: Any, x: Float[Array, "n d"]) -> Int[Array, " n"]:
  w, b = weights
  return jnp.argmax(x @ w + b, axis=1)


def _standardize(train_z, test_z):
  train_z, test_z = jnp.asarray(train_z, jnp.float32), jnp.asarray(test_z, jnp.float32)
  mean = jnp.mean(train_z, axis=0)
  scale = jnp.sqrt(jnp.mean(jnp.var(train_z, axis=0)))
  scale = jnp.where(scale > 0, scale, 1.0)
  return (train_z - mean) / scale, (test_z - mean) / scale
