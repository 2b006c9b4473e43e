"""The bounds, checked on synthetic batches.

  python -m spectral_jax.validate [--workdir=DIR] [--anchors=N] [--seed=S]

Sixteen settings of batch size, dimension, temperature and anisotropy: are the gradients inside their bands, and how
tight are these; the 1/tau^2 law; a picture. Writes bounds.txt, bounds.json and bounds.png. Seconds on a CPU.
"""

from __future__ import annotations

import functools
import itertools
from typing import TYPE_CHECKING

import jax
import jax.numpy as jnp
import numpy as np

from spectral_jax import bounds, command, gradients, progress, spectrum
from spectral_jax._anchors import LOSSES
from spectral_jax.command import app, flags
from spectral_jax.training.diagnostics import VANISHED
from spectral_jax.workdir.folder import disk_errors, whole, writable, write_json, write_text

if TYPE_CHECKING:
  import pathlib
  from collections.abc import Mapping, Sequence
  from typing import Any, Literal

  from jaxtyping import Array, Float, Int, PRNGKeyArray

  from spectral_jax._types import LossName, Scalar

ANCHORS = flags.DEFINE_integer(
    "anchors", 0, "Also check that many anchors of adversarial batches; a million take minutes.", lower_bound=0)
SEED = flags.DEFINE_integer("seed", 0, "Seed of the first of the synthetic batches.", lower_bound=0)
flags.adopt_module_key_flags(command)

SIZES, DIMENSIONS, TEMPERATURES, ANISOTROPIES = (32, 256), (16, 128), (0.1, 0.5), (0.0, 1.0)
SEEDS, NOISE = 4, 0.5
FORMS = {  # a column of the table, and the call that makes it
    "plugin": "bounds.anchor_band(u, v)",
    "three terms": "bounds.three_term_band(bounds.band_terms(u, v))",
    "effective rank": "the same with tr Sigma / sqrt(participation ratio) for the greatest eigenvalue",
    "apriori": "bounds.anchor_band(u, v, kind='apriori'), which knows no softmax",
    "batch": "bounds.batch_band(u, v), the mean over anchors"}
LAW_TEMPERATURES = (0.05, 0.1, 0.2, 0.5, 1.0, 2.0)


def synthetic_batch(key: PRNGKeyArray, n: int, d: int, *, anisotropy: Scalar = 0.0,
                    noise: float = NOISE) -> tuple[Float[Array, "n d"], Float[Array, "n d"]]:
  """Unit rows `(u, v)`: Gaussian with standard deviations `k^-anisotropy`, `v` being `u` plus relative noise."""
  scales = jnp.arange(1, d + 1.0) ** -anisotropy
  x, e = jax.random.normal(key, (2, n, d)) * scales
  unit = lambda z: z / jnp.linalg.norm(z, axis=-1, keepdims=True)
  return unit(x), unit(x + noise * e)


def adversarial_batch(key: PRNGKeyArray, n: int, d: int) -> tuple[Float[Array, "n d"], Float[Array, "n d"]]:
  """A random batch of a random kind: generic, duplicates in three clusters, two antipodal points, far off center.

  Noise from 0 to twice the signal, anisotropy from none to `k^-2`: what a bound must survive.
  """
  keys = jax.random.split(key, 6)
  pick = lambda k, values: jax.random.choice(k, jnp.array(values))
  kind, noise = jax.random.randint(keys[0], (), 0, 4), pick(keys[1], [0.0, 1e-3, 0.1, 0.5, 2.0])
  x, e = jax.random.normal(keys[2], (2, n, d)) * jnp.arange(1, d + 1.0) ** -pick(keys[3], [0.0, 0.5, 1.0, 2.0])
  clustered = x[jax.random.randint(keys[4], (n,), 0, 3) % n]
  antipodal = jnp.where(jnp.arange(n) % 2 == 0, 1.0, -1.0)[:, None] * x[:1]
  offset = 5 * jax.random.normal(keys[5], (d,))
  u = jnp.stack([x, clustered, antipodal, x + offset])[kind]
  return u, u + noise * e


@functools.partial(jax.jit, static_argnames=("loss", "kind", "n", "d", "batches"))
def containment(key: PRNGKeyArray, *, loss: LossName, kind: Literal["plugin", "apriori"], n: int, d: int,
                batches: int) -> Int[Array, ""]:
  """Checks `batches * n` anchors of adversarial batches, temperatures from 0.01 to 3 (KCL: t from 0.17 to 50).

  Returns:
    How many of them lie outside their band or are not finite: a scalar that must be 0.
  """
  def outside(key):
    u, v = adversarial_batch(key, n, d)
    temperature = 10 ** jax.random.uniform(key, minval=-2, maxval=0.5)
    queue = jax.random.normal(key, (3, d)) if loss == "info_nce" else None
    band = bounds.anchor_band(u, v, loss=loss, kind=kind, temperature=temperature, t=0.5 / temperature,
                              labels=jnp.arange(n) % 3, negatives=queue)
    inside = (band.lower <= band.value) & (band.value <= band.upper) & jnp.isfinite(band.upper)
    return jnp.sum(~inside)
  return jnp.sum(jax.vmap(outside)(jax.random.split(key, batches)))


@functools.partial(jax.jit, static_argnames=("n", "d"))
def bands_of(key: PRNGKeyArray, temperature: Scalar, anisotropy: Scalar, n: int,
             d: int) -> tuple[dict[str, bounds.Band], gradients.AnchorTerms]:
  """Every form of the band on one batch: a dictionary of `Band`, and the gradient's `AnchorTerms`."""
  u, v = synthetic_batch(key, n, d, anisotropy=anisotropy)
  terms = bounds.band_terms(u, v, temperature=temperature)
  forms = {
      "plugin": bounds.anchor_band(u, v, temperature=temperature),
      "three terms": bounds.three_term_band(terms),
      "effective rank": bounds.three_term_band(terms, effective_rank_bound(v, terms)),
      "apriori": bounds.anchor_band(u, v, temperature=temperature, kind="apriori"),
      "batch": jax.tree.map(jnp.atleast_1d, bounds.batch_band(u, v, temperature=temperature))}
  return forms, gradients.anchor_terms(u, v, temperature=temperature)


def effective_rank_bound(v: Float[Array, "n d"], terms: bounds.BandTerms) -> Float[Array, " n"]:
  """`tr Sigma / sqrt(PR) >= lambda_max`, from the participation ratio and without an eigendecomposition."""
  n = len(v)
  trace = 1 - jnp.sum(jnp.mean(v, axis=0) ** 2)
  bound = trace / jnp.sqrt(spectrum.effective_rank(v, kind="participation", center=True))
  return jnp.full_like(terms.value, bound * n / (n - 1))  # the anchor's own row left out: theory.md, section 3


def study(seed: int = 0) -> list[dict[str, Any]]:
  """The sixteen settings: a list of rows, each a dictionary with medians over anchors and seeds."""
  rows = []
  settings = list(itertools.product(SIZES, DIMENSIONS, TEMPERATURES, ANISOTROPIES))
  bar = progress.bar("checking", len(settings), unit="settings")
  for n, d, temperature, anisotropy in settings:
    runs = [bands_of(jax.random.key(seed + s), temperature, anisotropy, n, d) for s in range(SEEDS)]
    row = {"n": n, "d": d, "temperature": temperature, "anisotropy": anisotropy,
           "vanished": float(np.mean([np.mean(terms.repulsion * temperature < VANISHED) for _, terms in runs]))}
    for form in FORMS:
      lower, value, upper = (np.sqrt(np.concatenate([forms[form][k] for forms, _ in runs])) for k in range(3))
      row[form] = {"inside": float(np.mean((lower <= value) & (value <= upper))),
                   "upper/value": float(np.median(upper / value)), "lower/value": float(np.median(lower / value))}
    rows.append(row)
    bar.update()
  bar.close()
  return rows


def law(seed: int = 0, n: int = 256, d: int = 128) -> dict[str, Any]:
  """Mean squared gradient norm against temperature, and its log-log slopes with and without `q^2` taken out."""
  means, scaled = [], []
  for temperature in LAW_TEMPERATURES:
    forms, terms = bands_of(jax.random.key(seed), temperature, 0.0, n, d)
    value = np.asarray(forms["plugin"].value)
    means.append(float(value.mean()))
    scaled.append(float(np.mean(value / (np.asarray(terms.repulsion) * temperature) ** 2)))
  slope = lambda y: float(np.polyfit(np.log(LAW_TEMPERATURES), np.log(y), 1)[0])
  return {"temperature": list(LAW_TEMPERATURES), "mean squared norm": means, "divided by q^2": scaled,
          "slope": slope(means), "slope divided by q^2": slope(scaled)}


def table(rows: Sequence[Mapping[str, Any]], laws: Mapping[str, Any]) -> str:
  """The study as text."""
  head = f"{'n':>4} {'d':>4} {'tau':>4} {'aniso':>5} {'q<.01':>6} {'inside':>7} "
  lines = ["Bounds over the measured gradient norm, medians over anchors: upper/value, lower/value; 1 is tightest.",
           *(f"  {form + ':':16}{call}" for form, call in FORMS.items()),
           "q<.01: anchors whose q = 1 - p_positive has all but vanished.  inside: 100.0% is expected, by proof.", "",
           head + " ".join(f"{form:>15}" for form in FORMS)]
  for row in rows:
    inside = min(row[form]["inside"] for form in FORMS)
    cells = [f"{row[form]['upper/value']:9.3f} {row[form]['lower/value']:5.3f}" for form in FORMS]
    lines.append(f"{row['n']:4d} {row['d']:4d} {row['temperature']:4.2f} {row['anisotropy']:5.1f} "
                 f"{row['vanished']:6.1%} {inside:7.1%} " + " ".join(cells))
  median = lambda form, key: np.median([row[form][key] for row in rows])
  cells = [f"{median(form, 'upper/value'):9.3f} {median(form, 'lower/value'):5.3f}" for form in FORMS]
  lines.append(f"{'median':>35} " + " ".join(cells))
  row = lambda name, values: f"{name:>24} " + " ".join(f"{value:9.3g}" for value in values)
  lines += ["", "The 1/tau^2 law, n=256, d=128, isotropic: mean over anchors of the squared gradient norm.",
            row("tau", laws["temperature"]),
            row("measured", laws["mean squared norm"]) + f"   log-log slope {laws['slope']:6.3f}",
            row("divided by q^2", laws["divided by q^2"]) + f"   log-log slope {laws['slope divided by q^2']:6.3f}"
            "   (expected: near -2)",
            "The norm is q/tau times ||m_w - v||, which lies between 0 and 2: the law is about the norm over q. As "
            "measured",
            "no slope is expected: where tau is small, q vanishes with it, and the gradient too."]
  return "\n".join(lines)


def save_picture(path: pathlib.Path, laws: Mapping[str, Any], seed: int = 0) -> None:
  """Measured gradients between their bounds, anchors sorted; and the 1/tau^2 law."""
  from matplotlib.figure import Figure  # not pyplot: it would choose a backend for the whole process

  figure = Figure(figsize=(12, 6.2), layout="constrained")
  axes = figure.subplots(2, 3)
  for axis, (temperature, anisotropy) in zip(axes[:, :2].flat, itertools.product(TEMPERATURES, ANISOTROPIES)):
    forms, _ = bands_of(jax.random.key(seed), temperature, anisotropy, 256, 128)
    order = np.argsort(forms["plugin"].value)
    x = np.arange(len(order))
    for form, color in (("three terms", "#fbd38d"), ("plugin", "#63b3ed")):
      lower, _, upper = (np.sqrt(np.asarray(part)[order]) for part in forms[form])
      axis.fill_between(x, lower, upper, color=color, linewidth=0, label=f"{form} band")
    value = np.sqrt(np.asarray(forms["plugin"].value)[order])
    axis.plot(x, value, color="#1a202c", linewidth=1.2, label="measured")
    axis.set_ylim(bottom=0)
    axis.set_title(f"tau = {temperature}, " + ("isotropic" if anisotropy == 0 else "eigenvalues 1/k$^2$"), fontsize=10)
    axis.set(xlabel="anchors, sorted", ylabel="gradient norm")
  axes[0, 0].legend(loc="upper left", fontsize=8, frameon=False)
  x = np.asarray(laws["temperature"])
  for axis, key, slope, title in (
      (axes[0, 2], "mean squared norm", "slope", "Mean squared norm"),
      (axes[1, 2], "divided by q^2", "slope divided by q^2", "The same, divided by q$^2$")):
    y = np.asarray(laws[key])
    axis.loglog(x, y, "o-", color="#2b6cb0", label=f"measured, slope {laws[slope]:.2f}")
    axis.loglog(x, y[-1] * (x / x[-1]) ** -2, "--", color="#a0aec0", label="1/tau$^2$")
    axis.set_title(title, fontsize=10)
    axis.set(xlabel="tau")
    axis.legend(fontsize=8, frameon=False)
  figure.savefig(path, format="png", dpi=110)


def adversarial(anchors: int) -> tuple[int, int]:
  """Checks about that many adversarial anchors over losses, kinds and shapes; returns `(checked, outside)`."""
  shapes = ((2, 2), (17, 8), (64, 32), (128, 128))
  cases = list(itertools.product(LOSSES, ("plugin", "apriori"), shapes))
  cases = [case for case in cases if case[:2] != ("debiased", "apriori")]  # which has none
  checked = outside = 0
  for case, (loss, kind, (n, d)) in enumerate(cases):
    batches = min(256, -(-anchors // (len(cases) * n)))
    for repeat in range(-(-anchors // (len(cases) * n * batches))):
      key = jax.random.fold_in(jax.random.key(case), repeat)
      outside += int(containment(key, loss=loss, kind=kind, n=n, d=d, batches=batches))
      checked += batches * n
  return checked, outside


def main(words: Sequence[str]) -> None:
  if words:
    raise app.UsageError(f"unexpected arguments {words}; flags are given as --anchors=N, and there is no config")
  workdir = writable(command.WORKDIR.value or "runs/validate")
  rows, laws = study(SEED.value), law(SEED.value)
  result, text = {"settings": rows, "law": laws}, table(rows, laws)
  if ANCHORS.value:
    checked, outside = adversarial(ANCHORS.value)
    result["adversarial"] = {"anchors": checked, "outside": outside}
    text += f"\n\n{checked:,} anchors of adversarial batches, all losses: {outside} outside their band; expected: 0."
  with disk_errors(workdir):
    write_json(workdir / "bounds.json", result)
    write_text(workdir / "bounds.txt", text + "\n")
    with whole(workdir / "bounds.png") as part:
      save_picture(part, laws, SEED.value)
  print(f"{text}\n\nWritten: {workdir}/bounds.txt, bounds.json, bounds.png")


if __name__ == "__main__":
  command.run_on_workdirs(main)
