"""Stops and kills runs at every moment, and compares what they leave in the end with what an undisturbed run leaves.

  python benchmarks/soak.py [--preempt] [--kills=50] [--seed=0] [--out=docs/soak.json] [--folder=DIR]

Each run is the main job on the digits, small, with chosen batches, evaluations and scores. `--preempt` sends one signal
at each of the moments below and expects exit code 75; `--kills` sends SIGKILL at random ones, in the middle of saving,
evaluation, bank refresh, choice and scoring, and after a random time. In the end parameters, optimizer state, tables,
bank, metrics and scores must be the same to the last bit. The record is written after every run; given the same
`--out`, it goes on where it was.
"""

import argparse
import json
import pathlib
import random
import shutil
import signal
import sys
import tempfile
import time

ROOT = pathlib.Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from spectral_jax import preemption, progress
from spectral_jax.workdir.folder import write_json
from tests import runs
from tests.forge import Forge

# Batches of 240 of 1,437 digits: an epoch has 5 steps; chosen batches from epoch 2 on.
SETTINGS = {
    "batch_size": 240, "steps": 24, "log_every": 3, "diagnostics_every": 4, "eval_every_epochs": 2,
    "checkpoint.every_steps": 7, "checkpoint.keep": 2, "optimizer.warmup_epochs": 0, "model.width": 0.125,
    "model.projector_hidden": 8, "model.projector_dim": 8, "eval.knn_limit": 200, "eval.test_limit": 50,
    "eval.train_limit": 300, "eval.shot_draws": 2, "eval.probe_steps": 20, "eval.shot_steps": 10,
    "selection.rule": "greedy", "selection.candidates": 16, "bank.refresh_epochs": 1}
# Functions in whose calls something is under way, how often a whole run calls them, and what it is.
PLACES = (
    ("spectral_jax.workdir.logs:Log.add", 24, "step"),
    ("spectral_jax.training.loop:nearest_neighbors", 3, "evaluation begins"),
    ("spectral_jax.progress:bar(encoding)", 10, "evaluation or scoring, between batches"),
    ("spectral_jax.progress:bar(embedding)", 3, "bank refresh"),
    ("spectral_jax.training.batches.planner:chosen_table", 3, "choice of batches"),
    ("spectral_jax.workdir.checkpoints:save", 5, "a checkpoint begins"),
    ("spectral_jax.workdir.checkpoints:_seal", 5, "a checkpoint is nearly whole"),
    ("spectral_jax.workdir.checkpoints:restore", 1, "restoring"),
    ("spectral_jax.evaluation.scores:linear_accuracy", 3, "scoring"),
    ("spectral_jax.evaluation.scores:few_shot_accuracy", 3, "scoring"),
    ("spectral_jax.reports.summary:write_json", 3, "scores written"),
    ("spectral_jax.reports.gallery:draw", 1, "pictures"))
# Seconds within which a small run must have left after a signal, compiling of one function included.
PATIENCE = 60


class Soak:
  """One forge, one undisturbed run, one record."""

  def __init__(self, folder, out):
    self.folder, self.out = pathlib.Path(folder), pathlib.Path(out)
    self.forge = Forge(self.folder / "logs", self.folder / "compiled")
    self.record = json.loads(self.out.read_text()) if self.out.exists() else {
        "about": "python benchmarks/soak.py; the main job on the digits, 24 steps, 1 CPU device, 2 shared cores",
        "preempted": [], "killed": {}, "kills": 0, "runs": 0, "different": []}
    self.whole = None

  def start(self, folder, at=None):
    return self.forge.start(*runs.flags(SETTINGS, folder), at=at)

  def left(self, folder):
    scores = json.loads((folder / "summary.json").read_text())
    scores = {key: value for key, value in scores.items() if "second" not in key}
    return runs.left(folder), scores

  def undisturbed(self):
    folder = self.folder / "whole"
    code = self.start(folder).wait(600)
    assert code == 0
    self.whole = self.left(folder)

  def compare(self, folder, how):
    """Records whether a run ended as the undisturbed one."""
    found = self.left(folder)
    try:
      runs.assert_same(found[0], self.whole[0])
      assert found[1] == self.whole[1], f"scores {found[1]} instead of {self.whole[1]}"
    except AssertionError as error:
      self.record["different"].append({"how": how, "error": str(error)[:2000]})
      shutil.copytree(folder, self.folder / f"different-{len(self.record['different'])}")
    self.record["runs"] += 1
    write_json(self.out, self.record)

  def preempt(self, place, number, what, which):
    """One signal at one moment, then the same command to the end."""
    folder = self.folder / "preempted"
    shutil.rmtree(folder, ignore_errors=True)
    began = time.monotonic()
    child = self.start(folder, (place, number, which))
    code = child.wait(600)
    entry = {"place": place, "call": number, "what": what, "signal": which.name, "code": code,
             "seconds": round(time.monotonic() - began, 1)}
    if code != preemption.EXIT_CODE:
      self.record["different"].append({"how": entry, "error": child.said()[-2000:]})
    self.record["preempted"].append(entry)
    code = self.start(folder).wait(600)
    assert code == 0, code
    self.compare(folder, entry)

  def kill(self, chance):
    """A run that is killed one to four times, each time at a random moment, then left to end."""
    folder, history = self.folder / "killed", []
    shutil.rmtree(folder, ignore_errors=True)
    for _ in range(chance.randint(1, 4)):
      if chance.random() < 0.3:
        delay, what = chance.uniform(0.2, 8), "after a random time"
        child = self.start(folder)
        time.sleep(delay)
        if child.running():
          child.kill(signal.SIGKILL)
        history.append([what, delay])
      else:
        place, most, what = chance.choice(PLACES)
        number = chance.randint(1, most)
        child = self.start(folder, (place, number, signal.SIGKILL))
        history.append([place, number])
      code = child.wait(600)
      assert code in (0, -signal.SIGKILL), child.said()[-3000:]
      if code:
        self.record["kills"] += 1
        self.record["killed"][what] = self.record["killed"].get(what, 0) + 1
    child = self.start(folder)
    if child.wait(600):
      self.record["different"].append({"how": history, "error": child.said()[-3000:]})
      write_json(self.out, self.record)
      return
    self.compare(folder, history)


def main():
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  parser.add_argument("--preempt", action="store_true")
  parser.add_argument("--kills", type=int, default=0)
  parser.add_argument("--seed", type=int, default=0)
  parser.add_argument("--out", default=str(ROOT / "docs" / "soak.json"))
  parser.add_argument("--folder", default=None, help="kept between calls: what is compiled; by default a new one")
  options = parser.parse_args()
  soak = Soak(options.folder or tempfile.mkdtemp(), options.out)
  shutil.rmtree(soak.folder / "whole", ignore_errors=True)
  soak.undisturbed()
  chance = random.Random(options.seed + 1000 * soak.record["runs"])
  if options.preempt:
    moments = [(place, (most + 1) // 2, what) for place, most, what in PLACES if what != "restoring"]
    with progress.bar("preempting", len(moments), unit="moments", delay=0) as bar:
      for k, (place, number, what) in enumerate(moments):
        if [place, number] not in [[entry["place"], entry["call"]] for entry in soak.record["preempted"]]:
          soak.preempt(place, number, what, (signal.SIGTERM, signal.SIGINT)[k % 2])
        bar.update()
  with progress.bar("killing", options.kills, unit="kills", delay=0) as bar:
    while soak.record["kills"] < options.kills:
      soak.kill(chance)
      bar.update(soak.record["kills"] - bar.n)
  soak.forge.close()
  print(json.dumps({key: soak.record[key] for key in ("runs", "kills", "killed")}, indent=2))
  print(f"{len(soak.record['different'])} ended otherwise than the undisturbed run")
  sys.exit(bool(soak.record["different"]))


if __name__ == "__main__":
  main()
