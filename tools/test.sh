#!/usr/bin/env bash
# Sets up, builds and runs every test: C++ (ctest), oracles in Python (pytest), fuzz targets under sanitizers.
#
#   bash tools/test.sh                     everything
#   BITRAIN_FUZZ_SECONDS=5 tools/test.sh   shorter fuzzing (60 s a target by default)
set -euo pipefail
cd "$(dirname "$0")/.."
bash tools/setup.sh --tests
export HF_HUB_OFFLINE=1 TOKENIZERS_PARALLELISM=false
# OpenMP's threads then give the CPU away while they wait: tests with several processes take a fraction of the time.
export OMP_WAIT_POLICY=PASSIVE
python="${XDG_CACHE_HOME:-$HOME/.cache}/bitrain/venv/bin/python"
fuzz_seconds="${BITRAIN_FUZZ_SECONDS:-60}"

echo "test: building"
cmake --preset release -DBITRAIN_UNITY=ON >/dev/null
cmake --build build/release

echo "test: C++"
ctest --test-dir build/release --output-on-failure --no-tests=error

echo "test: Python oracles"
PYTHONPATH="$PWD/build/release/python" BITRAIN_BUILD_DIR="$PWD/build/release" "$python" -m pytest -q tests/python

echo "test: sanitizers and fuzzing"
bash tools/fuzz.sh "$fuzz_seconds"
