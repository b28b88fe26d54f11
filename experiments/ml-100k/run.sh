#!/usr/bin/env bash
# From the raw folder to trained models and a table: experiments/ml-100k/run.sh RAW_FOLDER [option of `qin-zoo study` …]
# Run it where data/ and checkpoints/ shall lie. What is done already is not repeated.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
raw=${1:?the folder of the raw files}
shift
data=data/ml-100k

[ -f "$data/dataset_config.yaml" ] || qin-zoo data import recbole "$raw" "$data"
[ -f "${data}_rated/dataset_config.yaml" ] ||
  qin-zoo data import recbole "$raw" "${data}_rated" --history all --history-column rating --known all
[ -f "${data}_counted/dataset_config.yaml" ] || qin-zoo baseline "${data}_rated" --columns "${data}_counted"
qin-zoo embed encode "$data" --modality text --text text
qin-zoo embed encode "$data" --modality kg --text facts
exec "$here/../embeddings.sh" ml-100k text kg "$@"
