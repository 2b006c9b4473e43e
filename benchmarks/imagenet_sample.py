"""`configs/imagenet100.py` from end to end on real photographs: steps, evaluation, checkpoints, kill, resume, scores.

  python benchmarks/imagenet_sample.py --images=DIR_OR_TAR [--out=docs/imagenet_sample.json] [--folder=DIR]

DIR_OR_TAR holds class folders of JPEG files, some of each class of ImageNet-100. They are written out twice as an image
folder, as TFRecord and as ArrayRecord under the name imagenet2012 with a class more, and streamed at 224 pixels on 1
process of 4 CPU devices and on 2 of 2. All that differs from the config is in `SETTINGS`: a thin ConvNet in the place
of the ResNet-50, batches of 16, 14 steps. Training and test images are the same, so accuracies mean nothing.

The folder's run is left alone on either layout. All others are killed after a checkpoint, started again, and compared
with it: index tables, parameters, optimizer state, metrics and scores. One is killed on 2 processes and goes on as one.
Given the same `--out` and `--folder` it goes on where it was. Needs the `tf` extra.
"""

import argparse
import json
import pathlib
import shutil
import signal
import sys
import tempfile
import time

ROOT = pathlib.Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

import numpy as np

from benchmarks.input import originals, write_folder, write_prepared
from spectral_jax.workdir.folder import write_json
from spectral_jax.workdir.logs import read_metrics
from tests import runs
from tests.forge import Forge, free_port

COPIES = 2
SETTINGS = {
    "model.encoder": "convnet", "model.width": 0.125, "model.projector_hidden": 32, "model.projector_dim": 16,
    "batch_size": 16, "steps": 14, "optimizer.warmup_epochs": 0, "diagnostics_every": 0, "log_every": 1,
    "checkpoint.every_steps": 4, "eval_every_epochs": 1, "eval.batch_size": 40, "eval.shots": 1, "eval.shot_draws": 1,
    "eval.shot_steps": 5, "eval.probe_steps": 20, "eval.train_limit": 100, "eval.test_limit": 100,
    "eval.knn_limit": 100, "eval.baseline_limit": 100}
# Killed in the seventh step: the checkpoint of the fourth is there.
KILL = ("spectral_jax.workdir.logs:Log.add", 7, signal.SIGKILL)
FORMATS = ("folder", "tfrecord", "array_record")
LAYOUTS = ((1, 4), (2, 2))


def shape(layout):
  return f"{layout[0]}x{layout[1]}"


class Sample:
  """The images in three formats, one forge, one record."""

  def __init__(self, images, folder, out):
    self.folder, self.out = pathlib.Path(folder), pathlib.Path(out)
    self.forge = Forge(self.folder / "logs", self.folder / "compiled")
    self.record = json.loads(self.out.read_text()) if self.out.exists() else {
        "about": "python benchmarks/imagenet_sample.py --images=...; 100 photographs twice, 224 pixels, CPU devices, "
                 "2 shared cores", "settings": SETTINGS}
    self.data = {kind: self._written(images, kind) for kind in FORMATS}

  def _written(self, images, kind):
    place = self.folder / kind
    name = "folder" if kind == "folder" else "imagenet2012"
    if not (place / "whole").exists():
      shutil.rmtree(place, ignore_errors=True)
      files = originals(images, self.folder / "originals")
      if kind == "folder":
        write_folder(files, COPIES, place)
      else:
        write_prepared(files, COPIES, place, kind, name, ["n00000000"])
      (place / "whole").touch()
    return {"data.name": name, "data.data_dir": str(place)}

  def start(self, workdir, kind, layout, at=None):
    """Runs to the end, or to where every process is killed."""
    processes, devices = layout
    flags = ["--config=imagenet100", *runs.flags({**SETTINGS, **self.data[kind]}, workdir)]
    env = {"SPECTRAL_JAX_CACHE": str(self.folder / "cache")}
    if processes > 1:
      port = free_port()
      several = [[f"--coordinator=127.0.0.1:{port}", f"--processes={processes}", f"--process={i}"]
                 for i in range(processes)]
    else:
      several = [[]]
    children = [self.forge.start(*flags, *more, devices=devices, at=at, env=env) for more in several]
    codes = [child.wait(1800) for child in children]
    assert codes == [0 if at is None else -signal.SIGKILL] * processes, (codes, children[0].said()[-3000:])
    return children[0].said()

  def new(self, *words):
    workdir = self.folder / "-".join(words)
    shutil.rmtree(workdir, ignore_errors=True)
    return workdir

  def whole(self, layout):
    """The folder's run, left alone."""
    workdir = self.new("whole", shape(layout))
    began = time.monotonic()
    self.start(workdir, "folder", layout)
    lines = read_metrics(workdir)
    losses = [line["loss"] for line in lines if "loss" in line]
    assert len(losses) == SETTINGS["steps"] and np.isfinite(losses).all()
    return {"checkpoints": runs.steps_of(workdir), "evaluated_after": [
        line["step"] for line in lines if "knn_accuracy" in line], "losses": losses,
        "seconds_with_compilation": round(time.monotonic() - began)}

  def killed(self, kind, first, then):
    """Killed on one layout, gone on with on another."""
    workdir = self.new("killed", kind, shape(first), shape(then))
    began = time.monotonic()
    self.start(workdir, kind, first, at=KILL)
    steps = runs.steps_of(workdir)
    said = self.start(workdir, kind, then)
    assert f"Going on from the checkpoint of step {steps[-1]}." in said
    return {"went_on_from_step": steps[-1], **self.compared(workdir, self.folder / f"whole-{shape(then)}"),
            "seconds_with_compilation": round(time.monotonic() - began)}

  def compared(self, workdir, whole):
    """What tells a run from the folder's that was left alone."""
    reference, found = runs.left(whole), runs.left(workdir)
    losses = [{line["step"]: line["loss"] for line in lines if "loss" in line} for _, _, lines in (reference, found)]
    assert losses[0].keys() == losses[1].keys() and len(losses[0]) == SETTINGS["steps"]
    scores = [{key: value for key, value in json.loads((place / "summary.json").read_text()).items()
               if "second" not in key} for place in (whole, workdir)]
    return {"same_steps": reference[0] == found[0],
            "same_arrays_to_the_last_bit": reference[1].keys() == found[1].keys() and all(
                np.array_equal(reference[1][name], found[1][name]) for name in reference[1]),
            "same_metrics": reference[2] == found[2], "same_scores": scores[0] == scores[1],
            "largest_relative_deviation_of_a_loss": max(abs(losses[1][s] / losses[0][s] - 1) for s in losses[0])}

  def steps(self):
    """Everything that is recorded, by name."""
    for layout in LAYOUTS:
      yield f"folder, {shape(layout)}, left alone", lambda a=layout: self.whole(a)
    for kind in FORMATS:
      for layout in LAYOUTS:
        yield f"{kind}, {shape(layout)}, killed", lambda k=kind, a=layout: self.killed(k, a, a)
    yield "tfrecord, killed on 2x2, gone on with on 1x4", lambda: self.killed("tfrecord", LAYOUTS[1], LAYOUTS[0])


def main():
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  parser.add_argument("--images", required=True, type=pathlib.Path)
  parser.add_argument("--out", default=str(ROOT / "docs" / "imagenet_sample.json"))
  parser.add_argument("--folder", default=None, help="kept between calls; by default a new one")
  parser.add_argument("--only", default="", help="the records whose names contain this")
  options = parser.parse_args()
  sample = Sample(options.images, options.folder or tempfile.mkdtemp(), options.out)
  for name, step in sample.steps():
    if name in sample.record or options.only not in name:
      continue
    sample.record[name] = step()
    write_json(sample.out, sample.record)
    print(name, json.dumps(sample.record[name]), flush=True)
  sample.forge.close()


if __name__ == "__main__":
  main()
