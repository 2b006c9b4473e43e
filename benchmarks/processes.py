"""One run on other numbers of devices and processes: the same batches, losses within a tolerance, one end for all.

  python benchmarks/processes.py [--out=docs/processes.json] [--folder=DIR] [--only=NAME]

The digits on 1, 2, 4 and 8 devices of one process, on 2 processes of 2 devices and 4 of 1; stopped and killed on some
and resumed on others; one process killed or stalled. Records the largest relative deviation of a loss from that of one
device, whether index tables agree to the last bit, exit codes, and how long the others took to end. Given the same
`--out` it goes on where it was.
"""

import argparse
import json
import pathlib
import re
import shutil
import signal
import sys
import tempfile
import time

import numpy as np

ROOT = pathlib.Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from spectral_jax import preemption
from spectral_jax.workdir.folder import write_json
from tests import runs
from tests.forge import Forge, free_port

SETTINGS = {**runs.SETTINGS, "steps": 24, "log_every": 1}
LOG_ADD = "spectral_jax.workdir.logs:Log.add"
# The linear probe of the second of three representations.
SCORING = ("spectral_jax.evaluation.scores:linear_accuracy", 2, signal.SIGTERM)
# Seconds of silence after which a process counts as lost.
LOST_AFTER = 20
FULLY_SHARDED = ((".*", "fsdp"),)
LAYOUTS = ((1, 1), (1, 2), (1, 4), (1, 8), (2, 2), (4, 1))


def naming(said, which):
  """The words in which a process says that another is gone, ours or JAX's; None where it does not name it."""
  ours, of_jax = rf"lost process {which} on \S+\.", rf"stopped sending heartbeats\):\s+{which}\s|/task:{which}\b[^\n]*"
  leader = r"Either the leader task was preempted/died/restarted unexpectedly" if which == 0 else ours
  found = re.search(ours, said) or re.search(of_jax, said) or re.search(leader, said)
  return found and " ".join(found[0].split())[:200]


class Matrix:
  """One forge, one reference on one device, one record."""

  def __init__(self, folder, out):
    self.folder, self.out = pathlib.Path(folder), pathlib.Path(out)
    self.forge = Forge(self.folder / "logs", self.folder / "compiled")
    self.record = json.loads(self.out.read_text()) if self.out.exists() else {
        "about": "python benchmarks/processes.py; digits, 24 steps, CPU devices, gloo, 2 shared cores; "
                 f"--lost_after={LOST_AFTER}"}

  def start(self, folder, processes, devices, at=(), sharding=None, rule="random", entry="train"):
    """Starts a run on `processes` of `devices` each; `at` holds the moment of each that has one."""
    settings = {**SETTINGS, "selection.rule": rule, **({} if sharding is None else {"sharding": sharding})}
    flags = runs.flags(settings, folder, f"--lost_after={LOST_AFTER}")
    if processes == 1:
      return [self.forge.start(*flags, devices=devices, entry=entry, at=at[0] if at else None)]
    port = free_port()
    at = [*at, *[None] * (processes - len(at))]
    return [self.forge.start(*flags, f"--coordinator=127.0.0.1:{port}", f"--processes={processes}", f"--process={i}",
                             devices=devices, entry=entry, at=at[i]) for i in range(processes)]

  def ended(self, children, code=0):
    codes = [child.wait(900) for child in children]
    assert codes == [code] * len(codes), (codes, "\n".join(child.said()[-2000:] for child in children))

  def new(self, name):
    folder = self.folder / name
    shutil.rmtree(folder, ignore_errors=True)
    return folder

  def compared(self, folder, rule="random"):
    """What tells a run from one on one device."""
    reference, found = runs.left(self.folder / f"1x1-{rule}"), runs.left(folder)
    tables = [name for name in reference[1] if "tables" in name and "bank" not in name]
    losses = [{line["step"]: line["loss"] for line in lines if "loss" in line} for _, _, lines in (reference, found)]
    assert losses[0].keys() == losses[1].keys() and len(losses[0]) == SETTINGS["steps"]
    return {"same_index_tables": all(np.array_equal(reference[1][name], found[1][name]) for name in tables),
            "largest_relative_deviation_of_a_loss": max(abs(losses[1][s] / losses[0][s] - 1) for s in losses[0])}

  def layout(self, processes, devices, sharding=None, rule="random"):
    folder = self.new(f"{processes}x{devices}-{rule}" + ("" if sharding is None else "-sharded"))
    self.ended(self.start(folder, processes, devices, sharding=sharding, rule=rule))
    return self.compared(folder, rule)

  def moved(self, name, first, then, number):
    """Stopped or killed on one layout, taken up on another."""
    folder = self.new(name)
    children = self.start(folder, *first, at=[(LOG_ADD, 9, number)] * (1 if number == signal.SIGTERM else first[0]))
    self.ended(children, preemption.EXIT_CODE if number == signal.SIGTERM else -number)
    self.ended(self.start(folder, *then))
    return self.compared(folder)

  def scored(self):
    """One of two processes is asked to stop while the end is scored; then the same command."""
    folder = self.new("scored")
    children = self.start(folder, 2, 2, at=[None, SCORING], entry="main")
    self.ended(children, preemption.EXIT_CODE)
    parts = sorted(json.loads((folder / "scores.json").read_text()))
    self.ended(self.start(folder, 2, 2, entry="main"))
    return {**self.compared(folder), "scored_before_it_stopped": parts,
            "scored_in_the_end": [key for key in json.loads((folder / "summary.json").read_text()) if "accuracy" in key]}

  def lost(self, name, number, which):
    """One of two processes is killed or stalls: how the other ends, and that the next start goes on."""
    folder = self.new(name)
    at = [None, None]
    at[which] = (LOG_ADD, 9, number)
    children = self.start(folder, 2, 2, at=at)
    gone, other = children[which], children[1 - which]
    gone.wait_until_stopped(900) if number == signal.SIGSTOP else gone.wait(900)
    began = time.monotonic()
    code = other.wait(900)
    seconds = time.monotonic() - began
    if number == signal.SIGSTOP:
      gone.kill(signal.SIGKILL)
      gone.wait()
    assert code not in (0, preemption.EXIT_CODE), code
    self.ended(self.start(folder, 2, 2))
    return {**self.compared(folder), "other_ended_with": code, "after_seconds": round(seconds, 1),
            "named_by": naming(other.said(), which)}

  def steps(self):
    """Everything that is recorded, by name."""
    for processes, devices in LAYOUTS:
      yield f"{processes} x {devices}", lambda p=processes, d=devices: self.layout(p, d)
    for processes, devices in ((1, 1), (1, 4), (2, 2)):
      yield f"{processes} x {devices}, chosen batches", lambda p=processes, d=devices: self.layout(p, d, rule="greedy")
    yield "2 x 2, fully sharded", lambda: self.layout(2, 2, FULLY_SHARDED)
    for name, first, then, number in (
        ("SIGTERM to one of 2 x 2, resumed on 1 x 2", (2, 2), (1, 2), signal.SIGTERM),
        ("SIGTERM on 1 x 4, resumed on 2 x 2", (1, 4), (2, 2), signal.SIGTERM),
        ("all of 2 x 2 killed, resumed on 1 x 8", (2, 2), (1, 8), signal.SIGKILL),
        ("1 x 1 killed, resumed on 4 x 1", (1, 1), (4, 1), signal.SIGKILL)):
      yield name, lambda n=name, f=first, t=then, s=number: self.moved("moved", f, t, s)
    for name, number, which in (("second of 2 killed", signal.SIGKILL, 1), ("first of 2 killed", signal.SIGKILL, 0),
                                ("second of 2 stalls", signal.SIGSTOP, 1), ("first of 2 stalls", signal.SIGSTOP, 0)):
      yield name, lambda s=number, w=which: self.lost("lost", s, w)
    yield "SIGTERM to one of 2 x 2 while the end is scored", self.scored


def main():
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  parser.add_argument("--out", default=str(ROOT / "docs" / "processes.json"))
  parser.add_argument("--folder", default=None, help="kept between calls; by default a new one")
  parser.add_argument("--only", default="", help="the records whose names contain this; the first is always made")
  options = parser.parse_args()
  matrix = Matrix(options.folder or tempfile.mkdtemp(), options.out)
  for k, (name, step) in enumerate(matrix.steps()):
    made = name in matrix.record and (k or (matrix.folder / "1x1-random").exists())
    if made or (k and options.only not in name):
      continue
    began = time.monotonic()
    matrix.record[name] = {**step(), "wall_seconds": round(time.monotonic() - began)}
    write_json(matrix.out, matrix.record)
    print(name, json.dumps(matrix.record[name]), flush=True)
  matrix.forge.close()


if __name__ == "__main__":
  main()
