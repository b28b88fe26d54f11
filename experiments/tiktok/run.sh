#!/usr/bin/env bash
# From the raw folder to trained models and a table: experiments/tiktok/run.sh RAW_FOLDER [option of `qin-zoo study` …]
# Run it where data/ and checkpoints/ shall lie. What is done already is not repeated.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
raw=${1:?the folder of the raw files}
shift
data=data/tiktok

[ -f "$data/dataset_config.yaml" ] || qin-zoo data import mmrec "$raw" "$data"
for modality in audio image; do
  qin-zoo embed encode "$data" --modality $modality --encoder "precomputed:$data/item_feature.parquet:${modality}_emb"
done
for strategy in text_only image_only concat_then_pca pca_then_concat; do
  qin-zoo embed fuse "$data" --strategy $strategy --text audio --image image --dim 64
done
fused="--column item_emb_d64 --info item_info_pca_then_concat.parquet"
[ -f "$data/item_info_aligned.parquet" ] || qin-zoo embed align "$data" $fused --dim 64
[ -f "$data/item_info_codes.parquet" ] || qin-zoo embed quantize "$data" $fused --codebook-size 32
qin-zoo study "$here/embeddings.yaml" "$@"
