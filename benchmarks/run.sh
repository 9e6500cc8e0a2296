#!/usr/bin/env bash
# bitrain beside its peers, same work, two threads, in one run; prints ratios and the share of the physical limit.
#
#   bash benchmarks/run.sh                  everything, about 20 minutes
#   bash benchmarks/run.sh --only nf4 train some cases (startup is measured by qlora)
set -euo pipefail
cd "$(dirname "$0")/.."
bash tools/setup.sh --tests
cmake --preset release >/dev/null
cmake --build build/release --target bitrain_bench
export HF_HUB_OFFLINE=1 TOKENIZERS_PARALLELISM=false OMP_NUM_THREADS=2
exec "${XDG_CACHE_HOME:-$HOME/.cache}/bitrain/venv/bin/python" benchmarks/run.py "$@"
