"""Measures batch selection and writes the tables into docs/performance.md and docs/selection.md.

  python benchmarks/selection.py [--repeats=7] [--no-write] [--part=all|spectrum|rules]

One run measures everything, so that the rows compare. Times are medians of wall time after a first call that compiles.
Needs the `bench` extra for apricot-select; without it that row says so.
"""

import argparse
import functools
import pathlib
import statistics
import sys
import time

import jax
import jax.numpy as jnp
import numpy as np

ROOT = pathlib.Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from benchmarks import report
from spectral_jax import selection
from spectral_jax.config import find_config, load_config
from spectral_jax.data.dataset import Dataset, Split
from spectral_jax.mesh import make_mesh
from spectral_jax.spectrum import effective_rank
from spectral_jax.training.run import prepare

M, D, BATCH, CANDIDATES, TOGETHER = 50_000, 128, 256, 64, 16
# The published rules look at all pairs, or nearly: a smaller bank, their times as ratios.
RULES_M = 10_000
# The bank of 1.3 million and batches of 4,096 that memory must stay linear for.
LARGE = (325_000, 650_000, 1_300_000)
LARGE_BATCH = 4096


def bank_of(m, d=D):
  """Unit rows in 100 clusters with a decaying spectrum, as embeddings have."""
  keys = jax.random.split(jax.random.key(0), 3)
  decay = jnp.exp(-jnp.arange(d) / 30)
  centres = jax.random.normal(keys[0], (100, d)) * decay
  rows = centres[jax.random.randint(keys[1], (m,), 0, 100)] + 0.5 * decay * jax.random.normal(keys[2], (m, d))
  return jax.block_until_ready(rows / jnp.linalg.norm(rows, axis=1, keepdims=True))


def median_seconds(call, repeats):
  """Median wall time after one call that warms up; and that call's result."""
  result = jax.block_until_ready(call())
  times = []
  for _ in range(repeats):
    started = time.perf_counter()
    jax.block_until_ready(call())
    times.append(time.perf_counter() - started)
  return statistics.median(times), result


def draw_candidates(m, seed=0):
  """A pool for each step. The naive greedy is given its candidates: their drawing costs it nothing."""
  rng = np.random.default_rng(seed)
  return [rng.choice(m, CANDIDATES, replace=False) for _ in range(BATCH)]


def numpy_naive(rows, drawn):
  """Greedy-m as it is defined: the participation ratio of the batch with each candidate, from its second moments."""
  taken = [int(drawn[0][0])]
  for looked_at in drawn[1:]:
    ranks = []
    for i in looked_at:
      batch = rows[[*taken, i]]
      moment = batch.T @ batch
      ranks.append(0.0 if i in taken else np.trace(moment) ** 2 / np.sum(moment * moment))
    taken.append(int(looked_at[int(np.argmax(ranks))]))
  return np.array(taken)


def numpy_updates(rows, drawn):
  """The same batch with the rank-one updates that the library uses, all candidates of a step at once."""
  taken = [int(drawn[0][0])]
  moment = np.outer(rows[taken[0]], rows[taken[0]])
  for looked_at in drawn[1:]:
    some = rows[looked_at]
    costs = np.sum((some @ moment) * some, axis=1)
    costs[np.isin(looked_at, taken)] = np.inf
    taken.append(int(looked_at[int(np.argmin(costs))]))
    moment += np.outer(rows[taken[-1]], rows[taken[-1]])
  return np.array(taken)


def numpy_fast_dpp(rows, ridge=1e-3):
  """Fast greedy MAP of a determinantal point process (Chen et al. 2018, algorithm 1), kernel rows as needed."""
  gains = np.sum(rows * rows, axis=1) + ridge
  factors = np.zeros((BATCH, len(rows)), rows.dtype)
  taken = [0]
  for k in range(BATCH - 1):
    last = taken[-1]
    kernel = rows @ rows[last]
    kernel[last] += ridge
    factors[k] = (kernel - factors[:k, last] @ factors[:k]) / np.sqrt(gains[last])
    gains -= factors[k] ** 2
    gains[last] = -np.inf
    taken.append(int(np.argmax(gains)))
  return np.array(taken)


def apricot_features(rows):
  """apricot-select's lazy greedy on a feature-based function; facility location would need an m x m matrix here."""
  try:
    from apricot import FeatureBasedSelection
  except ImportError:
    return None
  features = np.asarray(rows, np.float64) ** 2
  return lambda: FeatureBasedSelection(BATCH, concave_func="sqrt", optimizer="lazy").fit(features).ranking


def one_batch_rows(bank, repeats):
  """`(name, seconds a batch, effective rank)` of every way to choose 256 of 50,000."""
  rows = np.asarray(bank)
  keys = jax.random.split(jax.random.key(1), TOGETHER)
  greedy = functools.partial(selection.greedy_batch, batch_size=BATCH, candidates=CANDIDATES)
  together = jax.jit(jax.vmap(greedy, (0, None)))
  rank = lambda chosen: float(effective_rank(bank[jnp.asarray(chosen)], kind="participation"))

  seconds, chosen = median_seconds(lambda: together(keys, bank), repeats)
  yield f"`greedy_batch`, {CANDIDATES} candidates, {TOGETHER} built together", seconds / TOGETHER, rank(chosen[0])
  bare = {"random_batch": selection.random_batch, "greedy_batch": selection.greedy_batch,
          "pool_batch": selection.pool_batch, "log_det_batch": selection.log_det_batch,
          "hard_batch": selection.hard_batch}
  # Jitted as in training: the check for rows that are not finite reads the whole bank.
  for name, rule in bare.items():
    one = jax.jit(functools.partial(lambda rule, key, bank: rule(key, bank, BATCH), rule))
    seconds, chosen = median_seconds(lambda: one(keys[0], bank), repeats)
    yield f"`{name}`, one alone", seconds, rank(chosen)
  drawn = draw_candidates(M)
  for name, slow, count in (("NumPy: greedy from the definition, the same candidates", numpy_naive, 1),
                            ("NumPy: greedy with rank-one updates, the same candidates", numpy_updates, repeats)):
    seconds, chosen = median_seconds(lambda: slow(rows, drawn), count)
    yield name, seconds, rank(chosen)
  seconds, chosen = median_seconds(lambda: numpy_fast_dpp(rows), 3)
  yield "NumPy: fast greedy DPP (Chen et al. 2018)", seconds, rank(chosen)
  apricot = apricot_features(rows)
  if apricot is None:
    yield "apricot-select: not installed", None, None
  else:
    seconds, chosen = median_seconds(apricot, 1)
    yield "apricot-select, feature-based, lazy greedy", seconds, rank(chosen)


def epoch_rows(bank, repeats):
  """`(name, seconds an epoch, lowest, mean and highest rank)` of 195 batches of 256 from 50,000."""
  settings = [("random", {"rule": "random"}), ("greedy, balanced", {}),
              ("greedy, balanced, all candidates", {"candidates": None}),
              ("greedy, oversampled", {"coverage": "oversampled"}),
              ("greedy, independent", {"coverage": "independent"}),
              ("pool, independent", {"rule": "pool", "coverage": "independent"}),
              ("log_det, balanced", {"rule": "log_det"}), ("hard, balanced", {"rule": "hard"})]
  for name, options in settings:
    build = jax.jit(lambda key, bank: selection.epoch_batches(key, bank, BATCH, **options))
    seconds, batches = median_seconds(lambda: build(jax.random.key(2), bank), min(repeats, 3))
    ranks = jax.lax.map(lambda batch: effective_rank(bank[batch], kind="participation"), batches)
    yield name, seconds, float(ranks.min()), float(ranks.mean()), float(ranks.max())


def rule_rows(repeats):
  """`(name, seconds an epoch, mean rank)` of every rule's epoch from 10,000 rows, and of other programs' work."""
  bank = bank_of(RULES_M)
  settings = [("random", {"rule": "random"}), ("greedy, balanced", {}),
              ("greedy, independent", {"coverage": "independent"}), ("log_det, balanced", {"rule": "log_det"}),
              ("hard, balanced", {"rule": "hard"}), ("submodular, balanced", {"rule": "submodular"}),
              ("submodular, independent", {"rule": "submodular", "coverage": "independent"}),
              ("jest, oversampled 5 times", {"rule": "jest", "coverage": "oversampled", "oversample": 5}),
              ("spectral", {"rule": "spectral"}), ("cluster", {"rule": "cluster"}), ("gcbs", {"rule": "gcbs"}),
              ("b3", {"rule": "b3"})]
  builds = {name: jax.jit(functools.partial(selection.epoch_batches, batch_size=BATCH,
                                            reference=bank[::-1] if options.get("rule") == "jest" else None, **options))
            for name, options in settings}
  calls = {name: functools.partial(build, jax.random.key(2), bank) for name, build in builds.items()} | others(bank)
  found = {name: call() for name, call in calls.items()}  # compiles
  times = {name: [] for name in calls}
  order = np.random.default_rng(0)
  for _ in range(repeats):
    for name in order.permutation(list(calls)):
      started = time.perf_counter()
      jax.block_until_ready(calls[name]())
      times[name].append(time.perf_counter() - started)
  for name in calls:
    ranks = [effective_rank(bank[batch], kind="participation") for batch in found[name]] if name in builds else []
    yield name, statistics.median(times[name]), float(np.mean(ranks)) if ranks else None


def others(bank):
  """What scikit-learn and SciPy take for the core of "cluster", "gcbs" and "spectral"."""
  from scipy.sparse.csgraph import reverse_cuthill_mckee
  from sklearn.cluster import KMeans, SpectralClustering
  from sklearn.neighbors import NearestNeighbors
  rows = np.asarray(bank)

  def ordered():
    graph = NearestNeighbors(n_neighbors=32, algorithm="brute").fit(rows).kneighbors_graph()
    return reverse_cuthill_mckee(graph.multiply(graph.T).tocsr(), symmetric_mode=True)

  def clustered():
    some = rows[:13 * BATCH]  # a superbatch, of which an epoch has three
    affinity = np.log1p((BATCH - 1) * np.exp((some @ some.T - 1) / 0.1))
    return SpectralClustering(13, affinity="precomputed", random_state=0).fit_predict(affinity)

  return {"scikit-learn: `KMeans`, 10 clusters": lambda: KMeans(10, n_init=1, random_state=0).fit_predict(rows),
          "scikit-learn, SciPy: 32 mutual neighbors, reverse Cuthill-McKee": ordered,
          "scikit-learn: `SpectralClustering` of one superbatch of three": clustered}


def rules_table(repeats):
  lines = [f"{RULES_M // BATCH} batches of {BATCH} from {RULES_M:,} rows, d={D}, synthetic unit rows in 100 clusters, "
           "in turns of random order.", "",
           "| rule and coverage | seconds an epoch | times balanced greedy | mean rank |",
           "|---|---:|---:|---:|"]
  found = list(rule_rows(min(repeats, 3)))
  unit = next(seconds for name, seconds, _ in found if name == "greedy, balanced")
  for name, seconds, rank in found:
    lines.append(f"| {name} | {seconds:.3f} | {seconds / unit:.2f} | {'' if rank is None else f'{rank:.1f}'} |")
  return "\n".join(lines)


def memory_rows():
  """`(m, bytes of the bank, temporaries of 16 batches, temporaries of an epoch)` from the compiler."""
  keys = jax.eval_shape(lambda: jax.random.split(jax.random.key(0), TOGETHER))
  for m in LARGE:
    bank = jax.ShapeDtypeStruct((m, D), jnp.float32)
    together = jax.vmap(lambda key, bank: selection.greedy_batch(key, bank, LARGE_BATCH), (0, None))
    epoch = lambda keys, bank: selection.epoch_batches(keys[0], bank, LARGE_BATCH)
    sizes = [jax.jit(f).lower(keys, bank).compile().memory_analysis().temp_size_in_bytes for f in (together, epoch)]
    yield m, m * D * 4, *sizes


def large_seconds():
  """Seconds a batch of 4,096 from 1.3 million rows, 16 built together: run once after compiling."""
  bank = jax.block_until_ready(jax.random.normal(jax.random.key(3), (LARGE[-1], D)))
  keys = jax.random.split(jax.random.key(4), TOGETHER)
  build = jax.jit(jax.vmap(lambda key, bank: selection.greedy_batch(key, bank, LARGE_BATCH), (0, None)))
  seconds, chosen = median_seconds(lambda: build(keys, bank), 1)
  assert all(len(set(row)) == LARGE_BATCH for row in np.asarray(chosen).tolist())
  return seconds / TOGETHER


def share_parts(repeats, images=256, batch=64):
  """Parts of configs/cifar10.py on random pixels: seconds an image of a step and of a refresh, seconds of a choice.

  An accelerator runs the config's own batch; here a smaller one stands for it, its time per image being the same.
  """
  config = load_config(find_config("cifar10"))
  full = config.batch_size
  config.batch_size, config.eval.batch_size, config.selection.rule = batch, images, "greedy"
  config.optimizer.warmup_epochs = 0
  config.model.dtype = "float32"  # a CPU emulates bfloat16
  random = np.random.default_rng(0)
  labels = np.arange(images, dtype=np.int32) % 10
  split = Split(labels, 32, random.integers(0, 256, (images, 32, 32, 3), np.uint8))
  run = prepare(config, Dataset("pixels", tuple("0123456789"), split, split), make_mesh(devices=jax.devices()[:1]))
  state = run.init()
  [first] = run.feed(run.plan.random_table(0)[:1], 0)

  def step():
    nonlocal state
    state, metrics = run.step(state, first)
    return metrics

  step_seconds, _ = median_seconds(step, min(repeats, 3))
  refresh_seconds, _ = median_seconds(lambda: run.bank.refresh(state), min(repeats, 3))
  rows, key = bank_of(M, config.model.projector_dim), jax.random.key(5)
  choose = jax.jit(lambda key, bank: selection.epoch_batches(key, bank, full))
  choice_seconds, _ = median_seconds(lambda: choose(key, rows), min(repeats, 3))
  return {"full": full, "batch": batch, "refresh_epochs": config.bank.refresh_epochs,
          "step": step_seconds / batch, "refresh": refresh_seconds / images, "choice": choice_seconds}


def share_lines(repeats):
  """The share of selection and refresh in the training time of configs/cifar10.py, from its measured parts."""
  parts = share_parts(repeats)
  epoch = parts["step"] * (M // parts["full"]) * parts["full"]
  refresh = parts["refresh"] * M / parts["refresh_epochs"]
  share = (refresh + parts["choice"]) / (epoch + refresh + parts["choice"])
  return [f"`configs/cifar10.py` with the balanced greedy rule, from measured parts (ResNet-18, float32, random "
          f"pixels, steps of {parts['batch']} images scaled to an epoch of {M:,}): training {epoch:,.0f} s an epoch; "
          f"refresh {parts['refresh'] * M:,.0f} s every {parts['refresh_epochs']} epochs, {refresh:,.1f} s an epoch; "
          f"choosing {M // parts['full']} batches of {parts['full']} {parts['choice']:.2f} s an epoch. Selection and "
          f"refresh: {100 * share:.2f}% of the time, were none of it hidden behind training."]


def table(repeats):
  bank = bank_of(M)
  lines = [f"Calls: {repeats} of each (1 to 3 of slow ones) after one that compiles; numpy {np.__version__}. Synthetic "
           "unit rows in 100 clusters.", "",
           f"One batch: {BATCH} of {M:,} rows, d={D}.", "",
           "| rule | ms a batch | times the first row | effective rank |", "|---|---:|---:|---:|"]
  first = None
  for name, seconds, rank in one_batch_rows(bank, repeats):
    print(name, seconds, rank, flush=True)
    if seconds is None:
      lines.append(f"| {name} | | | |")
      continue
    first = first or seconds
    lines.append(f"| {name} | {seconds * 1e3:,.2f} | {seconds / first:.1f} | {rank:.1f} |")
  lines += ["", f"An epoch: {M // BATCH} batches of {BATCH} from {M:,} rows by `epoch_batches`, one jitted call.", "",
            "| rule and coverage | seconds | lowest rank | mean rank | highest rank |", "|---|---:|---:|---:|---:|"]
  for name, seconds, *ranks in epoch_rows(bank, repeats):
    print(name, seconds, ranks, flush=True)
    lines.append(f"| {name} | {seconds:.3f} | " + " | ".join(f"{rank:.1f}" for rank in ranks) + " |")
  lines += ["", f"Memory besides the bank, batches of {LARGE_BATCH:,}, d={D}, float32 (`memory_analysis` of the "
            "compiled function).", "",
            "| rows | bank, MB | 16 greedy batches together, MB | balanced greedy epoch, MB |", "|---:|---:|---:|---:|"]
  for m, *sizes in memory_rows():
    print(m, sizes, flush=True)
    lines.append(f"| {m:,} | " + " | ".join(f"{size / 1e6:,.0f}" for size in sizes) + " |")
  lines += ["", f"Run, not only compiled: {LARGE_BATCH:,} of {LARGE[-1]:,} rows, 16 batches together, "
            f"{large_seconds():.2f} s a batch.",
            "", *share_lines(repeats)]
  return "\n".join(lines)


def main():
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  parser.add_argument("--repeats", type=int, default=7)
  parser.add_argument("--no-write", action="store_true", help="print the tables only")
  parser.add_argument("--part", choices=("all", "spectrum", "rules"), default="all")
  options = parser.parse_args()
  if options.part != "spectrum":
    text = rules_table(options.repeats)
    print(text)
    if not options.no_write:
      report.write("costs", "python benchmarks/selection.py --part=rules", text, page=ROOT / "docs" / "selection.md")
  if options.part != "rules":
    text = table(options.repeats)
    print(text)
    if not options.no_write:
      report.write("selection", "python benchmarks/selection.py", text)


if __name__ == "__main__":
  main()
