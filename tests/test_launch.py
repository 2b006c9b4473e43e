"""The launchers: they call what they say, with the right arguments, and one of them runs here."""

import os
import pathlib
import re
import signal
import subprocess
import sys
import time

import pytest
import yaml

from spectral_jax import preemption
from tests import runs
from tests.forge import free_port
from tests.test_processes import LOST_AFTER, SETTINGS

ROOT = pathlib.Path(__file__).resolve().parent.parent
LAUNCH = ROOT / "launch"
SCRIPTS = ("local.sh", "slurm.sbatch", "tpu_vm.sh")
BIN = pathlib.Path(sys.executable).parent


@pytest.mark.parametrize("script", SCRIPTS)
def test_shellcheck_finds_nothing(script):
  shellcheck = BIN / "shellcheck"
  checked = subprocess.run([shellcheck, LAUNCH / script], capture_output=True, text=True)
  assert checked.returncode == 0, checked.stdout


@pytest.fixture
def stubs(tmp_path):
  """A PATH on which srun, scontrol and gcloud write down their arguments and end with the code in CODE_<NAME>."""
  folder = tmp_path / "bin"
  folder.mkdir()
  for name in ("srun", "scontrol", "gcloud"):
    stub = folder / name
    stub.write_text(f'#!/bin/bash\nfor word in {name} "$@"; do printf "%s\\0" "$word"; done >>"$CALLS"\n'
                    f'printf "\\n" >>"$CALLS"\nexit "${{CODE_{name}:-0}}"\n')
    stub.chmod(0o755)
  calls = tmp_path / "calls"

  def run(script, *arguments, **environment):
    calls.write_text("")
    done = subprocess.run([LAUNCH / script, *arguments], capture_output=True, text=True, cwd=tmp_path,
                          env={"PATH": f"{folder}:{os.environ['PATH']}", "CALLS": str(calls), **environment})
    said = [line.split("\0")[:-1] for line in calls.read_text().splitlines()]
    return done.returncode, said, done.stdout + done.stderr

  return run


MAIN = ["-m", "spectral_jax.main", "--config=imagenet1k", "--config.data.data_dir=/a folder"]


@pytest.mark.parametrize("code, requeued", [(0, False), (75, True), (1, False), (143, False)])
def test_a_slurm_job_is_requeued_when_it_was_stopped_and_only_then(stubs, code, requeued):
  ended, calls, _ = stubs("slurm.sbatch", *MAIN[2:], PYTHON="/env/python", SLURM_JOB_ID="17", CODE_srun=str(code))
  assert ended == code
  assert calls[0] == ["srun", "--kill-on-bad-exit=0", "--wait=300", "/env/python", *MAIN]
  assert calls[1:] == ([["scontrol", "requeue", "17"]] if requeued else [])


def test_what_a_slurm_job_asks_for():
  asked = re.findall(r"^#SBATCH (\S+)", (LAUNCH / "slurm.sbatch").read_text(), re.MULTILINE)
  assert {"--requeue", "--signal=TERM@300"} <= set(asked)
  tasks, gpus = (next(a.split("=")[1] for a in asked if a.startswith(name))
                 for name in ("--ntasks-per-node", "--gpus-per-node"))
  assert tasks == gpus and not any("gpus-per-task" in a for a in asked)


def test_a_tpu_slice_is_told_on_all_its_hosts(stubs):
  ssh = ["gcloud", "compute", "tpus", "tpu-vm", "ssh", "slice", "--zone=zone"]
  ended, calls, _ = stubs("tpu_vm.sh", "start", "slice", "zone", *MAIN[2:])
  assert ended == 0 and len(calls) == 1 and calls[0][:-1] == [*ssh, "--worker=all"]
  # What the hosts' shells make of it, run here with a Python that writes down what it was given.
  remote = calls[0][-1].removeprefix("--command=")
  assert "nohup .venv/bin/python -m spectral_jax.main --config=imagenet1k --config.data.data_dir=/a\\ folder" in remote
  assert stubs("tpu_vm.sh", "stop", "slice", "zone")[1] == [
      [*ssh, "--worker=all", "--command=kill -TERM $(cat spectral_jax/run.pid)"]]
  assert stubs("tpu_vm.sh", "log", "slice", "zone")[1] == [
      [*ssh, "--worker=0", "--command=tail -n 50 -F spectral_jax/spectral_jax.log"]]


def test_what_a_tpu_host_is_told_starts_one_run_and_refuses_a_second(stubs, tmp_path):
  remote = stubs("tpu_vm.sh", "start", "slice", "zone", "--config=a b")[1][0][-1].removeprefix("--command=")
  home = tmp_path / "home"
  python = home / "spectral_jax" / ".venv" / "bin" / "python"
  python.parent.mkdir(parents=True)
  python.write_text('#!/bin/bash\nprintf "%s|" "$@"\nsleep 20\n')
  python.chmod(0o755)
  host = lambda: subprocess.run(["bash", "-c", remote], cwd=home, capture_output=True, text=True, timeout=10)
  log, pid = home / "spectral_jax" / "spectral_jax.log", home / "spectral_jax" / "run.pid"
  assert host().returncode == 0
  try:
    until = time.monotonic() + 5
    while not (log.exists() and log.read_text()) and time.monotonic() < until:
      time.sleep(0.02)
    assert log.read_text() == "-m|spectral_jax.main|--config=a b|"
    second = host()
    assert second.returncode == 1 and "running already" in second.stdout
  finally:
    os.kill(int(pid.read_text()), signal.SIGKILL)


def test_a_preempted_slice_is_made_anew_and_started_again(stubs):
  _, calls, said = stubs("tpu_vm.sh", "watch", "slice", "zone", "v5litepod-16", "--config=digits", DRY_RUN="1")
  assert calls == []
  verbs = re.findall(r"gcloud compute tpus tpu-vm (\w+)", said)
  assert verbs == ["delete", "create", "scp", "ssh", "ssh"]
  assert "--accelerator-type=v5litepod-16" in said and "--spot" in said and "--config=digits" in said


@pytest.mark.parametrize("arguments", [(), ("start",), ("dance", "a", "b"), ("create", "a", "b")])
def test_a_tpu_command_that_is_none_shows_how_it_is_used(stubs, arguments):
  ended, calls, said = stubs("tpu_vm.sh", *arguments)
  assert ended == 2 and calls == [] and "launch/tpu_vm.sh start NAME ZONE" in said


def test_the_jobset_starts_one_process_on_each_host_and_needs_no_access():
  jobset = yaml.safe_load((LAUNCH / "kubernetes" / "jobset.yaml").read_text())
  assert (jobset["apiVersion"], jobset["kind"]) == ("jobset.x-k8s.io/v1alpha2", "JobSet")
  name, (worker,) = jobset["metadata"]["name"], jobset["spec"]["replicatedJobs"]
  job = worker["template"]["spec"]
  pod = job["template"]["spec"]
  (container,) = pod["containers"]
  hosts = {entry["name"]: entry["value"] for entry in container["env"]}["HOSTS"]
  assert worker["replicas"] == 1 and job["completionMode"] == "Indexed"
  assert job["completions"] == job["parallelism"] == int(hosts) and job["backoffLimit"] == 0
  # JobSet calls pod 0 <jobset>-<job>-<replica>-<index>, in a domain of the JobSet's name.
  assert jobset["spec"]["network"]["enableDNSHostnames"] is True
  (command,) = container["args"]
  assert command.startswith("exec python -m spectral_jax.main")
  port = container["ports"][0]["containerPort"]
  assert f"--coordinator={name}-{worker['name']}-0-0.{name}:{port}" in command
  assert '--processes="$HOSTS"' in command and '--process="$JOB_COMPLETION_INDEX"' in command
  assert pod["automountServiceAccountToken"] is False and "serviceAccountName" not in pod
  # A pod that stopped as asked fails its job by the policy, which JobSet does not count as a failure.
  exits = job["podFailurePolicy"]["rules"][0]
  assert exits["action"] == "FailJob" and exits["onExitCodes"] == {
      "containerName": container["name"], "operator": "In", "values": [preemption.EXIT_CODE]}
  (rule,) = jobset["spec"]["failurePolicy"]["rules"]
  assert rule["action"] == "RestartJobSetAndIgnoreMaxRestarts" and rule["onJobFailureReasons"] == ["PodFailurePolicy"]
  assert pod["restartPolicy"] == "Never" and pod["terminationGracePeriodSeconds"] >= 60
  mounts = {mount["mountPath"]: mount["name"] for mount in container["volumeMounts"]}
  volumes = {volume["name"]: volume for volume in pod["volumes"]}
  assert volumes[mounts["/dev/shm"]]["emptyDir"]["medium"] == "Memory"
  assert set(mounts.values()) == set(volumes)


def launcher(i, port):
  """The variables of two launchers for process i of two."""
  return {
      "slurm": {"SLURM_JOB_ID": "17", "SLURM_STEP_NODELIST": "localhost", "SLURM_NTASKS": "2", "SLURM_PROCID": str(i),
                "SLURM_LOCALID": str(i), "SLURM_STEP_NUM_NODES": "1", "JAX_COORDINATOR_PORT": str(port)},
      "open mpi": {"OMPI_MCA_orte_hnp_uri": "1531576320.0;tcp://127.0.0.1:34911", "OMPI_COMM_WORLD_SIZE": "2",
                   "OMPI_COMM_WORLD_RANK": str(i), "OMPI_COMM_WORLD_LOCAL_RANK": str(i),
                   "JAX_COORDINATOR_PORT": str(port)}}


@pytest.mark.parametrize("which", ["slurm", "open mpi"])
def test_a_launcher_s_variables_are_enough(forge, which):
  port = free_port()
  children = [forge.start(entry="roll_call", devices=2, env=launcher(i, port)[which]) for i in range(2)]
  for i, child in enumerate(children):
    assert child.wait() == 0, child.said()
    assert f"process {i} of 2, 2 of 4 devices" in child.said()


def worker_of(parent, flag):
  """The number of the process that `parent` started with `flag`."""
  children = pathlib.Path(f"/proc/{parent}/task/{parent}/children").read_text().split()
  return next(int(pid) for pid in children if flag in pathlib.Path(f"/proc/{pid}/cmdline").read_text().split("\0"))


def test_local_sh_runs_processes_and_ends_all_when_one_is_killed(tmp_path, forge, request):
  cache = forge.cache
  flags = runs.flags({**SETTINGS, "selection.rule": "random", "steps": 5000, "checkpoint.every_steps": 2,
                      "eval_every_epochs": 0}, tmp_path / "run", f"--lost_after={LOST_AFTER}")
  environment = {**os.environ, "PROCESSES": "2", "DEVICES": "2", "PYTHON": sys.executable, "PYTHONPATH": str(ROOT),
                 "JAX_COMPILATION_CACHE_DIR": str(cache), "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
                 "JAX_DISABLE_MOST_OPTIMIZATIONS": "1"}

  def start(log):
    process = subprocess.Popen([LAUNCH / "local.sh", *flags], env=environment, stdout=log, stderr=subprocess.STDOUT)
    request.addfinalizer(process.terminate)  # of no effect where it has ended, as it should
    return process

  def wait_for(condition, process, log, seconds=100):
    until = time.monotonic() + seconds
    while not condition():
      assert process.poll() is None and time.monotonic() < until, pathlib.Path(log.name).read_text()
      time.sleep(0.05)

  with open(tmp_path / "first.log", "w") as log:
    process = start(log)
    wait_for(lambda: runs.steps_of(tmp_path / "run"), process, log)
    os.kill(worker_of(process.pid, "--process=1"), signal.SIGKILL)
    began = time.monotonic()
    code = process.wait(60)
    said = pathlib.Path(log.name).read_text()
    assert code not in (0, preemption.EXIT_CODE) and time.monotonic() - began < 45, said
    assert re.search(r"process 1 \(pid \d+\) ended with code 137", said), said
  with open(tmp_path / "second.log", "w") as log:
    process = start(log)
    wait_for(lambda: "Going on from the checkpoint of step" in pathlib.Path(log.name).read_text(), process, log)
    process.send_signal(signal.SIGTERM)
    assert process.wait(60) == preemption.EXIT_CODE, pathlib.Path(log.name).read_text()


def test_local_sh_says_what_it_would_run(stubs):
  _, _, said = stubs("local.sh", "--config=a b", DRY_RUN="1", PYTHON="/env/python")
  assert said.split() == ["/env/python", "-m", "spectral_jax.main", "--config=a\\", "b"]
  _, _, said = stubs("local.sh", DRY_RUN="1", PYTHON="/env/python", PROCESSES="2", PORT="99")
  assert [line.split()[3:] for line in said.splitlines()] == [
      ["--coordinator=127.0.0.1:99", "--processes=2", f"--process={i}"] for i in range(2)]
