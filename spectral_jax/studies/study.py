"""A study from its cases to its page: run, keep, say, publish. What the commands `compare` and `sweep` share."""

from __future__ import annotations

import datetime
import os
import platform
import sys
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import jax

from spectral_jax import preemption
from spectral_jax._errors import RunError
from spectral_jax.studies import page, study_page
from spectral_jax.studies.cases import run_cases
from spectral_jax.workdir.folder import CONFIG, claim, write_json

if TYPE_CHECKING:
  import pathlib
  from collections.abc import Mapping

  from spectral_jax._types import Config


class Study(NamedTuple):
  """What is compared with what, and how the outcome is told."""
  module: str                # the command, e.g. "spectral_jax.compare"
  cases: dict[str, Any]      # {name: config}
  labels: dict[str, dict]    # {name: what tells the case apart}; stands in each of the runs
  seeds: Sequence[int]
  setting: str               # what all cases have in common, in words
  tell: Callable             # runs -> what results.json has besides "about", "runs" and "failures"
  draw: Callable             # (folder, content) -> names of the pictures
  section: Callable          # content of results.json -> Markdown
  evaluate: Callable | None = None


def conduct(study: Study, config: Config, folder: str | pathlib.Path) -> dict[str, Any]:
  """Makes the runs that are not there yet; returns the content of results.json, and leaves it, table, pictures, page.

  Raises:
    ConfigError: a config that no run could use, or a folder that holds another study.
    RunError: every case failed.
    preemption.Preempted: asked to stop; the same command goes on.
  """
  with claim(folder, config) as folder, preemption.watched():
    found, failures = run_cases(study.cases, folder, evaluate=study.evaluate)
    runs = [{**study.labels[name], **found[name]} for name in study.cases if name in found]
    if not runs:
      if not any(folder.glob(f"*/{CONFIG}")):  # none began: the folder is free for the config that is mended
        (folder / CONFIG).unlink(missing_ok=True)
      raise RunError("every case failed: " + "; ".join(_by_reason(failures)))
    content = {"about": about(study, runs), **study.tell(runs), "runs": runs, "failures": failures}
    content["about"]["pictures"] = study.draw(folder, content)
    write_json(folder / "results.json", content)
    table = study.section(content)
    (folder / "table.md").write_text(table + "\n")
    study_page.write(folder / "report.html", folder)
    print(f"\n{table}\n\nEverything is in {folder}")
  return content


def _by_reason(failures):
  cases = {}
  for case, why in failures.items():
    cases.setdefault(why, []).append(case)
  return [f"{' and '.join(names)}: {why}" if len(cases) > 1 else why for why, names in cases.items()]


def publish(path: pathlib.Path, name: str, title: str, study: Study, content: dict[str, Any],
            folder: pathlib.Path) -> None:
  """Writes a study's section of a page; beside the page its pictures and the JSON that both were made from."""
  path.parent.mkdir(parents=True, exist_ok=True)
  stem, copies = f"{path.stem}_{name}", []
  for picture in content["about"]["pictures"]:
    own = "" if picture == "curves.png" else f"_{picture.removesuffix('.png')}"
    copies.append(f"{stem}{own}.png")
    (path.parent / copies[-1]).write_bytes((folder / picture).read_bytes())
  content = {**content, "about": {**content["about"], "pictures": copies}}
  write_json(path.with_name(f"{stem}.json"), content)
  page.write_section(path, name, title, study.section(content))
  print(f"{path} has it as well.")


def provenance(module: str) -> dict[str, str]:
  """Where a study's figures come from: the command of `module`, the date and the hardware."""
  devices = jax.devices()
  cores = f", {len(os.sched_getaffinity(0))} cores" if devices[0].platform == "cpu" else ""
  words = [f"'{word}'" if set(word) & set(";()'* ") else word for word in sys.argv[1:]
           if not word.startswith(("--workdir", "--page", "--section"))]
  return {"command": " ".join([f"python -m {module}", *words]), "date": str(datetime.date.today()),
          "hardware": f"{len(devices)} x {devices[0].device_kind} ({platform.machine()}{cores})"}


def clock() -> str:
  """Which of a point's seconds can be compared: the processor's, unless the work is done elsewhere."""
  return "processor_seconds" if jax.devices()[0].platform == "cpu" else "seconds"


def about(study: Study, runs: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
  """Where the figures come from: command, hardware, date and setting."""
  numbers = sorted({run["train_images"] for run in runs})
  images = " to ".join(f"{number:,}" for number in dict.fromkeys((numbers[0], numbers[-1])))
  return {
      **provenance(study.module), "clock": clock(),
      "setting": f"{', '.join(sorted({run['dataset'] for run in runs}))}, {images} training images, {study.setting}",
      "seeds": ", ".join(map(str, study.seeds))}
