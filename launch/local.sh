#!/usr/bin/env bash
# Runs the main job on this machine: on all its devices in one process, or in several processes.
#
#   launch/local.sh --config=configs/cifar10.py --config.data.data_dir=DIR
#   DEVICES=8 launch/local.sh                      # the default run on eight devices made of the CPU, to try a mesh out
#   PROCESSES=2 DEVICES=2 launch/local.sh          # the same on two processes of two such devices each
#   PROCESSES=8 launch/local.sh --config=...       # one process for each of eight GPUs
#
# Needs: the package installed, in .venv or for python3 (PYTHON=... names another interpreter); a free port (PORT=...,
# by default one that is free now). With DRY_RUN=1 it prints the commands.
# Ends with the run's exit code: 0 done, 75 stopped by a signal (the same command goes on). A signal to this script goes to
# all processes. Where one process ends in error, the others are given GRACE seconds (90) to end by themselves: they
# notice a closed connection at the next collective, and a silent process after --lost_after seconds (60).
set -euo pipefail
cd "$(dirname "$0")/.."
if [[ -n "${DEVICES:-}" ]]; then
  export JAX_PLATFORMS=cpu JAX_NUM_CPU_DEVICES="$DEVICES"
fi
python=${PYTHON:-.venv/bin/python}
[[ -x "$python" || -n "${PYTHON:-}" ]] || python=python3
count=${PROCESSES:-1}
command=("$python" -m spectral_jax.main "$@")

if [[ "$count" == 1 ]]; then
  [[ -z "${DRY_RUN:-}" ]] || { printf '%q ' "${command[@]}" && echo && exit; }
  exec "${command[@]}"
fi

free_port() {
  "$python" -c 'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])'
}
port=${PORT:-$(free_port)}
pids=()
for ((i = 0; i < count; i++)); do
  each=("${command[@]}" "--coordinator=127.0.0.1:$port" "--processes=$count" "--process=$i")
  if [[ -n "${DRY_RUN:-}" ]]; then
    printf '%q ' "${each[@]}" && echo
  elif [[ -n "${DEVICES:-}" ]]; then
    "${each[@]}" &
    pids+=($!)
  else
    CUDA_VISIBLE_DEVICES=$i "${each[@]}" &
    pids+=($!)
  fi
done
[[ -z "${DRY_RUN:-}" ]] || exit 0

send() {
  for pid in "${pids[@]}"; do kill "-$1" "$pid" 2>/dev/null || true; done
}
trap 'send TERM' TERM
trap 'send INT' INT

alive() {
  for pid in "${pids[@]}"; do ! kill -0 "$pid" 2>/dev/null || return 0; done
  return 1
}
code=0
left=("${!pids[@]}")
deadline=
while ((${#left[@]})); do
  still=()
  for i in "${left[@]}"; do
    if kill -0 "${pids[$i]}" 2>/dev/null; then
      still+=("$i")
      continue
    fi
    ended=0
    wait "${pids[$i]}" || ended=$?
    [[ "$code" != 0 && "$code" != 75 ]] || [[ "$ended" == 0 ]] || code=$ended
    if [[ "$ended" != 0 && "$ended" != 75 ]]; then
      echo "process $i (pid ${pids[$i]}) ended with code $ended" >&2
      deadline=${deadline:-$((SECONDS + ${GRACE:-90}))}
    fi
  done
  left=(${still[@]+"${still[@]}"})
  if [[ -n "$deadline" ]] && ((SECONDS > deadline)) && alive; then
    echo "the other processes did not end within ${GRACE:-90} s and are killed" >&2
    send KILL
  fi
  sleep 0.2 || true
done
exit "$code"
