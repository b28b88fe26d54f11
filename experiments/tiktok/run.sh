#!/usr/bin/env bash
# From the raw folder to trained models and a table: experiments/tiktok/run.sh RAW_FOLDER [option of `qin-zoo study` …]
# Run it where data/ and checkpoints/ shall lie. What is done already is not repeated.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
raw=${1:?the folder of the raw files}
shift
data=data/tiktok

[ -f "$data/dataset_config.yaml" ] || qin-zoo data import mmrec "$raw" "$data"
[ -f "${data}_light/dataset_config.yaml" ] || qin-zoo data import mmrec "$raw" "${data}_light" --max-rows-per-user 20
[ -f "${data}_light_counted/dataset_config.yaml" ] ||
  qin-zoo baseline "${data}_light" --columns "${data}_light_counted"
for modality in audio image; do
  qin-zoo embed encode "$data" --modality $modality --encoder "precomputed:$data/item_feature.parquet:${modality}_emb"
done
qin-zoo study "$here/counted.yaml" "$@"
exec "$here/../embeddings.sh" tiktok audio image "$@"
