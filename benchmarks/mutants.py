"""Puts one-line bugs into the code and asks the tests that should notice: which bugs live?

  python benchmarks/mutants.py [--only=TEXT] [--again] [--passed] [--jobs=1] [--results=docs/mutants.json]

The bugs are listed in benchmarks/mutants_*.py, each a text of one file and what replaces it, with the tests that should
fail. Each runs in a copy of the tree; the tests are first run without a bug, and must pass. What has a result already,
but for bugs that live, is not run again (`--again` does), so a run that was stopped goes on. Results go to a JSON file
and, as a table, to the Markdown file beside it. An hour or more: a script to run now and then, no part of the suite.
"""

import argparse
import collections
import concurrent.futures
import datetime
import hashlib
import importlib
import json
import os
import pathlib
import queue
import shutil
import subprocess
import sys
import tempfile
import time
from typing import NamedTuple

ROOT = pathlib.Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

COPIED = ("spectral_jax", "tests", "configs", "benchmarks", "pyproject.toml")
LIMIT = 900  # seconds; a bug that makes the tests hang is noticed as well


class Mutant(NamedTuple):
  """One bug."""
  file: str        # from the root of the tree
  old: str         # a text that the file has exactly once
  new: str         # what replaces it
  tests: str       # arguments of pytest, as one would type them
  equivalent: str = ""  # why no test can notice, where none can

  @property
  def key(self):
    return hashlib.sha256("\0".join(self[:3]).encode()).hexdigest()[:12]


def mutants():
  """All that benchmarks/mutants_*.py list, checked: every old text is there once."""
  found = []
  for path in sorted(ROOT.glob("benchmarks/mutants_*.py")):
    found += [Mutant(*entry) for entry in importlib.import_module(f"benchmarks.{path.stem}").MUTANTS]
  for mutant in found:
    times = (ROOT / mutant.file).read_text().count(mutant.old)
    if times != 1:
      sys.exit(f"Error: {mutant.file} has {times} times, not once: {mutant.old!r}; renew the list of mutants")
  return found


def tree():
  """A copy of the code and its tests in a new folder."""
  folder = pathlib.Path(tempfile.mkdtemp(prefix="mutant-"))
  for name in COPIED:
    source = ROOT / name
    if source.is_dir():
      shutil.copytree(source, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
    else:
      shutil.copy(source, folder / name)
  return folder


def passes(folder, tests):
  """Whether the tests pass there (None: out of time), and the name of the first that failed."""
  command = [sys.executable, "-B", "-m", "pytest", "-x", "-q", "-n0", "-p", "no:cacheprovider", "--tb=no",
             f"--basetemp={folder}/tmp", *_words(tests)]
  try:
    done = subprocess.run(command, cwd=folder, env=os.environ | {"PYTHONPATH": str(folder)}, capture_output=True,
                          text=True, timeout=LIMIT, check=False)
  except subprocess.TimeoutExpired:
    return None, "out of time"
  failed = [line.split(" ")[1] for line in done.stdout.splitlines() if line.startswith(("FAILED", "ERROR "))]
  if done.returncode not in (0, 1, 2):  # 2: a file of tests that cannot even be imported
    sys.exit(f"Error: pytest {tests} ended with {done.returncode}:\n{done.stdout[-2000:]}{done.stderr[-2000:]}")
  return done.returncode == 0, failed[0] if failed else ""


def _words(tests):
  """Arguments apart; an expression after -k is one, up to the end."""
  files, _, expression = tests.partition(" -k ")
  return [*files.split(), *(["-k", expression] if expression else [])]


def judge(mutant, folder):
  """The result of one mutant: a dictionary."""
  path = folder / mutant.file
  original = path.read_text()
  start = time.monotonic()
  try:
    path.write_text(original.replace(mutant.old, mutant.new))
    passed, noticed_by = passes(folder, mutant.tests)
  finally:
    path.write_text(original)
  result = "killed" if not passed else "equivalent" if mutant.equivalent else "alive"
  return {**{name: value for name, value in mutant._asdict().items() if value or name == "new"}, "result": result,
          "noticed_by": noticed_by, "seconds": round(time.monotonic() - start, 1)}


def main():
  parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
  parser.add_argument("--only", default="", help="mutants whose file or text has this in it")
  parser.add_argument("--again", action="store_true", help="run those that have a result too")
  parser.add_argument("--passed", action="store_true", help="the suite has just passed: do not run it without a bug")
  parser.add_argument("--jobs", type=int, default=1, help="mutants at a time")
  parser.add_argument("--results", type=pathlib.Path, default=ROOT / "docs" / "mutants.json")
  args = parser.parse_args()
  listed = mutants()
  results = json.loads(args.results.read_text())["mutants"] if args.results.exists() else {}
  results = {key: result for key, result in results.items() if key in {mutant.key for mutant in listed}}
  due = [mutant for mutant in listed if any(args.only in text for text in mutant[:3]) and (
      args.again or mutant.key not in results or results[mutant.key]["tests"] != mutant.tests
      or results[mutant.key]["result"] == "alive")]
  due.sort(key=lambda mutant: mutant.key)  # all rooms mixed, so that a run that is stopped has seen each
  folders = queue.Queue()
  for _ in range(args.jobs):
    folders.put(tree())

  def with_folder(function, *arguments):
    folder = folders.get()
    try:
      return function(*arguments, folder)
    finally:
      folders.put(folder)

  try:
    with concurrent.futures.ThreadPoolExecutor(args.jobs) as pool:
      for tests, (passed, failed) in pool.map(
          lambda tests: (tests, with_folder(lambda folder: passes(folder, tests))),
          [] if args.passed else sorted({m.tests for m in due})):
        print(f"without a bug: {'passed' if passed else f'failed at {failed}'}  {tests}", flush=True)
        if not passed:
          sys.exit("Error: these tests must pass first")
      jobs = {pool.submit(with_folder, judge, mutant): mutant for mutant in due}
      for number, job in enumerate(concurrent.futures.as_completed(jobs), 1):
        result = results[jobs[job].key] = job.result()
        print(f"{number}/{len(due)} {result['result']:10} {result['seconds']:5.1f} s  "
              f"{result['file']}: {result['new'].strip()}", flush=True)
        write(args.results, results, len(listed))
  finally:
    while not folders.empty():
      shutil.rmtree(folders.get())
  sys.exit(any(result["result"] == "alive" for result in results.values()))


def write(path, results, listed):
  """The JSON file, and the table beside it."""
  counts = collections.Counter(result["result"] for result in results.values())
  content = {"command": "python benchmarks/mutants.py", "date": datetime.date.today().isoformat(), "listed": listed,
             "counts": counts, "mutants": results}
  path.write_text(json.dumps(content, indent=1) + "\n")
  cell = lambda text: "`" + " ".join(text.split()).replace("|", "\\|") + "`"
  rooms = collections.defaultdict(collections.Counter)
  for result in results.values():
    rooms["/".join(pathlib.Path(result["file"]).with_suffix("").parts[1:2])][result["result"]] += 1
  lines = ["# Bugs put in on purpose", "",
           f"`{content['command']}`, {content['date']}: {listed} one-line bugs listed, {len(results)} run.", "",
           "| part | killed | equivalent | alive |", "|---|---|---|---|"]
  lines += [f"| {room} | {c['killed']} | {c['equivalent']} | {c['alive']} |" for room, c in sorted(rooms.items())]
  lines += [f"| all | {counts['killed']} | {counts['equivalent']} | {counts['alive']} |", "",
            "Killed: a test fails. Equivalent: no test can notice, for the reason given. Alive: a test is missing.", ""]
  survivors = [result for result in results.values() if result["result"] != "killed"]
  if survivors:
    lines += ["| survivor | in place of | where | why |", "|---|---|---|---|"]
    lines += [f"| {cell(r['new'])} | {cell(r['old'])} | {r['file']} | {r.get('equivalent', 'no test notices')} |"
              for r in survivors]
  path.with_suffix(".md").write_text("\n".join(lines).rstrip() + "\n")


if __name__ == "__main__":
  main()
