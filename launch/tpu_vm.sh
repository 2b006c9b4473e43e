#!/usr/bin/env bash
# A run on a TPU VM slice: the same command on all its hosts.
#
#   launch/tpu_vm.sh create NAME ZONE TYPE [VERSION]     # a spot slice, TYPE such as v5litepod-16
#   launch/tpu_vm.sh setup NAME ZONE                     # copies this checkout to all hosts and installs it
#   launch/tpu_vm.sh start NAME ZONE [flags of main]     # begins or goes on, in the background; --workdir on shared storage
#   launch/tpu_vm.sh log NAME ZONE                       # follows what the first host says
#   launch/tpu_vm.sh stop NAME ZONE                      # TERM to all hosts: each saves and leaves with code 75
#   launch/tpu_vm.sh watch NAME ZONE TYPE [flags]        # looks every minute; makes a preempted slice anew and starts again
#
# Needs: gcloud, logged in, its project set, with the right to make TPU VMs (roles/tpu.admin) and to reach them
# (compute.instances.setMetadata or OS Login); TPU quota for TYPE in ZONE. The workdir must be one folder for all hosts:
# a Filestore share, not a mounted bucket, since a run locks and renames files; data may lie on each host, or in a bucket
# mounted with gcsfuse.
# With DRY_RUN=1 it prints the commands. JAX finds the hosts of a slice by itself: no flag says who they are.
set -euo pipefail
cd "$(dirname "$0")/.."
usage() { sed -n '2,/^set -euo/s/^# \{0,1\}//p' "$0" && exit 2; }
(($# >= 3)) || usage
verb=$1 name=$2 zone=$3
shift 3
log=spectral_jax.log

run() {
  if [[ -n "${DRY_RUN:-}" ]]; then
    printf '%q ' "$@" && echo
  else
    "$@"
  fi
}
on() {  # on WORKERS COMMAND
  run gcloud compute tpus tpu-vm ssh "$name" "--zone=$zone" "--worker=$1" "--command=$2"
}
create() {
  run gcloud compute tpus tpu-vm create "$name" "--zone=$zone" "--accelerator-type=$1" \
    "--version=${2:-tpu-ubuntu2204-base}" --spot
}
setup() {
  run tar --create --gzip --file=/tmp/spectral_jax.tar.gz --exclude=.venv --exclude=.git --exclude=runs .
  run gcloud compute tpus tpu-vm scp /tmp/spectral_jax.tar.gz "$name:" "--zone=$zone" --worker=all
  on all "mkdir -p spectral_jax && tar --extract --gzip --file=spectral_jax.tar.gz --directory=spectral_jax && cd spectral_jax && python3 -m venv .venv && .venv/bin/pip install --quiet --editable '.[train,tf,tpu]' --constraint constraints.txt"
}
start() {
  local flags
  flags=$(printf '%q ' "$@")
  # A second start beside a running one would fail at its locked workdir; it is told here.
  on all "cd spectral_jax && if [[ -f run.pid ]] && kill -0 \$(cat run.pid) 2>/dev/null; then echo it is running already; exit 1; fi; nohup .venv/bin/python -m spectral_jax.main $flags >>$log 2>&1 & echo \$! >run.pid"
}
state() {
  gcloud compute tpus tpu-vm describe "$name" "--zone=$zone" '--format=value(state)' 2>/dev/null || echo GONE
}

case "$verb" in
  create) (($# >= 1)) || usage; create "$@" ;;
  setup) setup ;;
  start) start "$@" ;;
  log) on 0 "tail -n 50 -F spectral_jax/$log" ;;
  stop) on all "kill -TERM \$(cat spectral_jax/run.pid)" ;;
  watch)
    (($# >= 1)) || usage
    type=$1
    shift
    while true; do
      now=$(if [[ -n "${DRY_RUN:-}" ]]; then echo PREEMPTED; else state; fi)
      case "$now" in
        PREEMPTED | TERMINATED | STOPPED | GONE)
          [[ "$now" == GONE ]] || run gcloud compute tpus tpu-vm delete "$name" "--zone=$zone" --quiet
          create "$type" && setup && start "$@"
          ;;
      esac
      [[ -z "${DRY_RUN:-}" ]] || exit 0
      sleep 60
    done
    ;;
  *) usage ;;
esac
