#!/usr/bin/env bash
# From the raw folder to trained models and a table: experiments/kuairand/run.sh RAW_FOLDER [option of `qin-zoo study` …]
# Run it where data/ and checkpoints/ shall lie. What is done already is not repeated.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
raw=${1:?the folder of the raw files}
shift
data=data/kuairand

[ -f "$data/dataset_config.yaml" ] || qin-zoo data import kuairand "$raw" "$data"
[ -f "${data}_counted/dataset_config.yaml" ] || qin-zoo baseline kuairand --columns "${data}_counted"
qin-zoo study "$here/models.yaml" "$@"
qin-zoo study "$here/tuned.yaml" "$@"
qin-zoo study "$here/qin.yaml" "$@"
exec qin-zoo study "$here/gauc.yaml" "$@"
