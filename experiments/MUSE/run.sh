#!/usr/bin/env bash
# Runs an experiment of this folder: ./run.sh [EXPID] [GPU]
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
exec python "$here/../run_expid.py" --config "$here" --expid "${1:-MUSE_MicroLens_1M_x1}" --gpu "${2:-0}"
