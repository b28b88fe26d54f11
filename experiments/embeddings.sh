#!/usr/bin/env bash
# The part that recipes share: fuses two encoded modalities, aligns, quantizes, and runs the study.
# experiments/embeddings.sh NAME TEXT IMAGE [option of `qin-zoo study` …]; TEXT and IMAGE are names in the store.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
name=$1 text=$2 image=$3
shift 3
data=data/$name

for strategy in text_only image_only concat_then_pca pca_then_concat; do
  qin-zoo embed fuse "$data" --strategy $strategy --text "$text" --image "$image" --dim 64
done
fused="--column item_emb_d64 --info item_info_pca_then_concat.parquet"
[ -f "$data/item_info_aligned.parquet" ] || qin-zoo embed align "$data" $fused --dim 64
[ -f "$data/item_info_codes.parquet" ] || qin-zoo embed quantize "$data" $fused --codebook-size 32
exec qin-zoo study "$here/$name/embeddings.yaml" "$@"
