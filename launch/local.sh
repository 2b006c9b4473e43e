#!/usr/bin/env bash
# Runs the main job on all devices of this machine, or, with DEVICES=n, on n devices made of its CPU.
#
#   launch/local.sh --config=configs/cifar10.py --config.data.data_dir=DIR
#   DEVICES=8 launch/local.sh                      # the digits on eight host devices, to try a mesh out
set -euo pipefail
cd "$(dirname "$0")/.."
if [[ -n "${DEVICES:-}" ]]; then
  export JAX_PLATFORMS=cpu JAX_NUM_CPU_DEVICES="$DEVICES"
fi
python=.venv/bin/python
[[ -x "$python" ]] || python=python3
exec "$python" -m spectral_jax.main "$@"
