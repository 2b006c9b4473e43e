"""The losses as slow NumPy double loops, written from the equations.

Complex-safe throughout (no conjugates, no absolute values), so that a complex step gives derivatives to rounding:
f'(x)[h] = Im f(x + i e h) / e. No maximum is subtracted: float64 holds exp(1/tau) down to tau = 0.005.
"""

import numpy as np


def normalize(x):
  out = np.array(x, dtype=complex if np.iscomplexobj(x) else float)
  for i in range(len(out)):
    if np.any(out[i] != 0):
      out[i] = out[i] / np.sqrt(np.sum(out[i] * out[i]))
  return out


def dot(a, b):
  total = 0.0
  for x, y in zip(a, b):
    total = total + x * y
  return total


def _softmax_loss(u, v, tau, where, negatives_of, positive_inside, lost=0.0):
  """Per-anchor `-s+ + log(sum over the rows that negatives_of(i) lists)`; None where an anchor has no loss."""
  values = []
  for i in range(len(u)):
    if not where[i]:
      values.append(None)
      continue
    positive = np.exp(u[i] @ v[i] / tau)
    total = positive if positive_inside else 0.0
    rows = negatives_of(i)
    for z in rows:
      total = total + np.exp(u[i] @ z / tau)
    values.append(None if len(rows) == 0 and not positive_inside else -(u[i] @ v[i]) / tau + np.log(total))
  return values


def _both(a, b):
  return [None if x is None else (x + y) / 2 for x, y in zip(a, b)]


def _others(x, i, where):
  return [x[j] for j in range(len(x)) if j != i and where[j]]


def info_nce(u, v, tau, where, queue=()):
  return _softmax_loss(u, v, tau, where, lambda i: _others(v, i, where) + list(queue), True)


def info_nce_symmetric(u, v, tau, where, queue=()):
  return _both(info_nce(u, v, tau, where, queue), info_nce(v, u, tau, where, queue))


def nt_xent(u, v, tau, where):
  one = lambda u, v: _softmax_loss(u, v, tau, where, lambda i: _others(v, i, where) + _others(u, i, where), True)
  return _both(one(u, v), one(v, u))


def dcl(u, v, tau, where):
  one = lambda u, v: _softmax_loss(u, v, tau, where, lambda i: _others(v, i, where) + _others(u, i, where), False)
  return _both(one(u, v), one(v, u))


def dhel(u, v, tau, where, energy):
  values = []
  for i in range(len(u)):
    sums = [sum(np.exp(x[i] @ z / tau) for z in _others(x, i, where)) for x in (u, v)]
    if not where[i] or not _others(u, i, where):
      values.append(None)
      continue
    logs = np.log(sums[0]), np.log(sums[1])
    e = {"anchor": logs[0], "mean": (logs[0] + logs[1]) / 2, "sum": logs[0] + logs[1]}[energy]
    values.append(-(u[i] @ v[i]) / tau + e)
  return values


def kernel(name, parameter):
  return {
      "gaussian": lambda x: np.exp(-parameter * x),
      "log": lambda x: -np.log(1 + parameter * x) / 2,
      "imq": lambda x: parameter / np.sqrt(parameter**2 + x),
      "riesz": lambda x: np.sign(parameter) * x ** (-parameter / 2),
  }[name]


def kcl(u, v, where, k, align, gamma):
  kept = [i for i in range(len(u)) if where[i]]

  def energy(x):
    pairs = [(i, j) for i in kept for j in kept if i < j]
    return sum(k(np.sum((x[i] - x[j]) ** 2)) for i, j in pairs) / len(pairs) if pairs else 0.0

  return -2 * np.mean([align(np.sum((u[i] - v[i]) ** 2)) for i in kept]) + gamma * (energy(u) + energy(v))


def nscl(u, v, labels, tau, where, positive_inside):
  def one(u, v):
    other = lambda i: [j for j in range(len(u)) if labels[j] != labels[i] and where[j]]
    return _softmax_loss(u, v, tau, where, lambda i: [x[j] for j in other(i) for x in (u, v)], positive_inside)

  return _both(one(u, v), one(v, u))


def supcon(u, v, labels, tau, where):
  rows = [(x[i], labels[i], i, view) for view, x in enumerate((u, v)) for i in range(len(u)) if where[i]]
  values = [None] * len(u)
  for a, (z, y, i, view) in enumerate(rows):
    logits = [z @ other[0] / tau for b, other in enumerate(rows) if b != a]
    positives = [z @ other[0] / tau for b, other in enumerate(rows) if b != a and other[1] == y]
    value = -sum(positives) / len(positives) + np.log(sum(np.exp(s) for s in logits))
    values[i] = value / 2 if values[i] is None else values[i] + value / 2
  return values


def sigmoid(u, v, tau, bias, where):
  values = [None] * len(u)
  for i in range(len(u)):
    if where[i]:
      values[i] = 0.0
      for j in range(len(v)):
        if where[j]:
          sign = 1 if i == j else -1
          values[i] = values[i] + np.log(1 + np.exp(-sign * (u[i] @ v[j] / tau + bias)))
  return values


def spectral_contrastive(u, v, where):
  def one(u, v):
    values = [None] * len(u)
    for i in range(len(u)):
      if where[i]:
        rows = _others(u, i, where) + _others(v, i, where)
        values[i] = -2 * (u[i] @ v[i]) + (sum((u[i] @ z) ** 2 for z in rows) / len(rows) if rows else 0.0)
    return values

  return _both(one(u, v), one(v, u))


def hard_negative(u, v, tau, beta, prior, where):
  def one(u, v):
    values = [None] * len(u)
    for i in range(len(u)):
      rows = _others(u, i, where) + _others(v, i, where)
      if where[i]:
        positive, count = np.exp(u[i] @ v[i] / tau), len(rows)
        total = 0.0
        if rows:
          exponentials = [np.exp(u[i] @ z / tau) for z in rows]
          weights = [e ** beta for e in exponentials]
          total = count * sum(w * e for w, e in zip(weights, exponentials)) / sum(weights)
          if prior > 0:
            total = (total - count * prior * positive) / (1 - prior)
            least = count * np.exp(-1 / tau)
            total = total if np.real(total) > np.real(least) else least
        values[i] = -np.log(positive / (positive + total))
    return values

  return _both(one(u, v), one(v, u))


def estimates(u, v, tau, where, negatives):
  """`g_i` of the anchors u and of the anchors v, `(n, 2)`; None where there is none."""
  def one(u, v):
    values = [None] * len(u)
    for i in range(len(u)):
      rows = _others(v, i, where) + (_others(u, i, where) if negatives == "both" else [])
      if where[i] and rows:
        values[i] = sum(np.exp((u[i] @ z - u[i] @ v[i]) / tau) for z in rows) / len(rows)
    return values

  return list(zip(one(u, v), one(v, u)))


def mean(values):
  kept = [x for x in values if x is not None]
  return sum(kept) / len(kept) if kept else 0.0


def derivative(function, point, direction):
  step = 1e-30
  return np.imag(function(*(x + 1j * step * h for x, h in zip(point, direction)))) / step
