"""Real processes for tests and soak scripts: forked from one that has imported everything, so that each starts at once.

`Forge` starts the server below; `start` has it fork a child that runs the main command as `python -m spectral_jax.main`
would, in a process group of its own. A signal can be sent at a chosen moment: `at=(place, number, signal)`, when the
function `place` ("module:name") is called for the `number`th time, or with an argument as "module:name(argument)".
"""

import collections
import gc
import importlib
import json
import os
import pathlib
import signal
import socket
import subprocess
import sys
import time

ROOT = pathlib.Path(__file__).resolve().parent.parent
# What a run of the main command imports; none of these starts a thread or looks for devices.
IMPORTED = ("chex", "dm_pix", "matplotlib.backends.backend_agg", "matplotlib.backends.backend_svg", "optax",
            "orbax.checkpoint", "sklearn.datasets", "spectral_jax.job", "spectral_jax.main",
            "spectral_jax.reports.gallery", "spectral_jax.reports.report", "vl_convert")
# And what every notebook does, once the first is asked for.
OF_NOTEBOOKS = ("matplotlib.pyplot", "matplotlib_inline.backend_inline", "IPython.core.interactiveshell")


class Child:
  """A process of a forge; `wait` returns its exit code, negative for a signal."""

  def __init__(self, pid, log, ask):
    self.pid, self.log, self._ask, self._ended = pid, pathlib.Path(log), ask, None

  def wait(self, timeout=600):
    until = time.monotonic() + timeout
    while (code := self._code()) is None:
      if time.monotonic() > until:
        os.kill(self.pid, signal.SIGKILL)
        raise TimeoutError(f"process {self.pid} did not end within {timeout} s:\n{self.said()[-3000:]}")
      time.sleep(0.02)
    return code

  def wait_until_stopped(self, timeout=600):
    """Waits until SIGSTOP has taken effect."""
    until = time.monotonic() + timeout
    while pathlib.Path(f"/proc/{self.pid}/stat").read_text().rpartition(")")[2].split()[0] != "T":
      if not self.running() or time.monotonic() > until:
        raise TimeoutError(f"process {self.pid} did not stop:\n{self.said()[-3000:]}")
      time.sleep(0.02)

  def kill(self, number):
    os.kill(self.pid, number)

  def running(self):
    return self._code() is None

  def _code(self):
    if self._ended is None:
      self._ended = self._ask({"wait": self.pid})
    return self._ended

  def said(self):
    return self.log.read_text(errors="replace")


class Forge:
  """A server that forks; close it at the end."""

  def __init__(self, folder, cache):
    self._folder, self._count = pathlib.Path(folder), 0
    self.cache = cache
    self._folder.mkdir(parents=True, exist_ok=True)
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "JAX_PLATFORMS": "cpu",
                   "JAX_COMPILATION_CACHE_DIR": str(cache),
                   "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0", "TF_CPP_MIN_LOG_LEVEL": "1"}
    self._server = subprocess.Popen([sys.executable, "-m", "tests.forge"], cwd=ROOT, env=environment, text=True,
                                    stdin=subprocess.PIPE, stdout=subprocess.PIPE)

  def start(self, *flags, devices=1, at=None, quick=True, entry="main", env=None):
    """Starts the main command with these flags on so many CPU devices; with `entry` "train" it does not score the end.

    Returns a `Child`.
    """
    self._count += 1
    log = self._folder / f"{self._count}.log"
    pid = self._ask({"flags": list(map(str, flags)), "devices": devices, "log": str(log), "at": at, "quick": quick,
                     "entry": entry, "env": env or {}})
    return Child(pid, log, self._ask)

  def run(self, *flags, timeout=600, **options):
    """The same, waited for; returns its exit code and what it said."""
    child = self.start(*flags, **options)
    return child.wait(timeout), child.said()

  def _ask(self, question):
    self._server.stdin.write(json.dumps(question) + "\n")
    self._server.stdin.flush()
    return json.loads(self._server.stdout.readline())

  def close(self):
    self._server.stdin.close()
    self._server.wait(30)


def free_port():
  with socket.socket() as probe:
    probe.bind(("127.0.0.1", 0))
    return probe.getsockname()[1]


def serve():
  """Answers every line of its input; see `Forge._ask`."""
  keep_imported(IMPORTED)
  for line in sys.stdin:
    question = json.loads(line)
    if "wait" in question:
      pid, status = os.waitpid(question["wait"], os.WNOHANG)
      answer = os.waitstatus_to_exitcode(status) if pid else None
    else:
      if question["entry"] == "notebook":
        keep_imported(OF_NOTEBOOKS)
      answer = os.fork()
      if not answer:
        child(question)
    print(json.dumps(answer), flush=True)


def keep_imported(modules):
  """Imports them for all children to come, which neither look through what is there nor copy its pages to do so."""
  for module in modules:
    importlib.import_module(module)
  gc.collect()
  gc.freeze()


def child(question):
  os.setpgid(0, 0)
  log = os.open(question["log"], os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
  os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
  os.dup2(log, 1)
  os.dup2(log, 2)
  os.environ.update(question["env"])
  import jax

  from spectral_jax import command, main
  jax.config.update("jax_num_cpu_devices", question["devices"])
  jax.config.update("jax_disable_most_optimizations", question["quick"])
  if question["at"]:
    arm(*question["at"])
  sys.argv = ["main", *question["flags"]]
  sys.modules["__main__"] = main
  code = 1
  try:
    if question["entry"] == "notebook":
      notebook(*question["flags"])
    else:
      command.run({"main": main.main, "train": train, "crops": crops, "roll_call": roll_call}[question["entry"]])
    code = 0
  except SystemExit as end:
    code = end.code
    if isinstance(code, str):
      print(code, file=sys.stderr)
      code = 1
    code = code or 0
  except BaseException:
    import traceback
    traceback.print_exc()
  finish(code)


def notebook(path, folder):
  """Runs a notebook's cells in a folder as a kernel would; writes down the kinds of what each shows and says what it prints."""
  import matplotlib
  from IPython.core.interactiveshell import InteractiveShell
  from IPython.utils.capture import capture_output
  from matplotlib_inline import backend_inline
  from traitlets.config import Config

  from tests import kept
  kept.read_back_for_one_device_only()
  os.chdir(folder)
  shell, shown = InteractiveShell.instance(config=Config({"HistoryManager": {"enabled": False}})), []
  matplotlib.use(f"module://{backend_inline.__name__}")
  backend_inline.configure_inline_support(shell, backend_inline.__name__)
  for cell in json.loads(pathlib.Path(path).read_text())["cells"]:
    if cell["cell_type"] == "code":
      with capture_output() as captured:
        ended = shell.run_cell("".join(cell["source"]))
      print(captured.stdout, captured.stderr)
      ended.raise_error()
      shown.append([list(output.data) for output in captured.outputs])
  pathlib.Path(path).with_suffix(".shown").write_text(json.dumps(shown))


def train(config, name):
  """The main job without its scores and pictures."""
  from spectral_jax import command, preemption
  from spectral_jax.training import loop, run
  from spectral_jax.workdir.folder import claim
  opened = run.open_run(config)
  with claim(command.WORKDIR.value, config) as folder, preemption.watched():
    loop.train(opened, folder)


def roll_call(config, name):
  """Says who this process is."""
  import jax
  print(f"process {jax.process_index()} of {jax.process_count()}, "
        f"{jax.local_device_count()} of {jax.device_count()} devices")


def crops(config, name):
  """Leaves the first epoch's batches as they lie on this process's devices, and which images it has read for them."""
  import dataclasses

  import jax
  import numpy as np

  from spectral_jax import command, mesh
  from spectral_jax.data import open_dataset
  from spectral_jax.training.batches import feed, tables
  split, read = open_dataset(config.data).train, []
  inner = split.encoded.read

  def counted(indices):
    read.extend(np.asarray(indices).tolist())
    return inner(indices)

  split = dataclasses.replace(split, encoded=dataclasses.replace(split.encoded, read=counted))
  table = tables.epoch_indices(config.seed, 0, split.size, config.batch_size)
  of = feed.make_feed(split, mesh.make_mesh(), config.data.image_size, config.seed, config.augment.crop_scale)
  batches = list(of(table, 0))

  def mine(array, axis):
    shards = sorted(array.addressable_shards, key=lambda shard: shard.index[axis].start or 0)
    return np.concatenate([np.asarray(shard.data) for shard in shards], axis)

  folder = pathlib.Path(command.WORKDIR.value)
  folder.mkdir(parents=True, exist_ok=True)
  order = {index: at for at, index in enumerate(table.ravel().tolist())}
  np.savez(folder / f"crops-{jax.process_index()}.npz", read=sorted(read, key=order.get),
           index=np.stack([mine(batch["index"], 0) for batch in batches]),
           images=np.stack([mine(batch["images"], 1) for batch in batches]))


def finish(code):
  """Ends as the interpreter would: with the functions that are to be called at exit."""
  import atexit
  import threading
  threading._shutdown()
  atexit._run_exitfuncs()
  sys.stdout.flush()
  sys.stderr.flush()
  os._exit(code)


def arm(place, number, signal_number):
  """Sends this process a signal when it comes to a place for the `number`th time."""
  from spectral_jax import preemption

  def wait_until_heard():
    """A thread hears signals; on busy cores that would be a step later."""
    until = time.monotonic() + 10
    while preemption._watch.active and not preemption._watch.signaled and time.monotonic() < until:
      time.sleep(0.001)

  path, _, argument = place.removesuffix(")").partition("(")
  module, _, name = path.partition(":")
  holder = importlib.import_module(module)
  for part in name.split(".")[:-1]:
    holder = getattr(holder, part)
  name = name.split(".")[-1]
  inner, calls = getattr(holder, name), collections.Counter()

  def outer(*args, **kwargs):
    if not argument or argument in [*args, *kwargs.values()]:
      calls[place] += 1
      if calls[place] == number:
        os.kill(os.getpid(), signal_number)
        if signal_number in preemption.SIGNALS:
          wait_until_heard()
    return inner(*args, **kwargs)

  setattr(holder, name, outer)


if __name__ == "__main__":
  serve()
