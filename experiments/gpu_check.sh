#!/bin/bash
# At most 8 minutes on one GPU: the tests that need one; then the published QIN, DIN, DIN_CrossAttention and
# Transformer-DCN on 3.6 million rows in float32, tf32 and bfloat16, compiled or not, beside the CPU's numbers.
#
#     experiments/gpu_check.sh [FOLDER]        # default: gpu_check; table.md, table.json, tests.txt
#
# GPU_CHECK_SMALL=1 runs every line of it on the CPU with small sizes; PYTHON names another interpreter.
cd "$(dirname "$0")/.." || exit
out=${1:-gpu_check} python=${PYTHON:-python3} how=(--gpu 0 --seconds 330)
if [ -n "$GPU_CHECK_SMALL" ]; then
  how=(--gpu -1 --seconds 240 --rows 1000 --set batch_size=128 --set embedding_dim=8 --set max_len=16)
fi
mkdir -p "$out"
timeout 130 "$python" -m pytest -q -rs -p no:cacheprovider tests/gpu/test_on_gpu.py > "$out/tests.txt" 2>&1
tests=$?
"$python" -m qin_zoo bench gpu "$out/table" "${how[@]}" \
  --note "Tests on the GPU: status $tests (0: passed, 124: no time left), $(tail -n 1 "$out/tests.txt")" || exit
exit $tests
