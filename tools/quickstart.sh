#!/usr/bin/env bash
# Sets up, builds and runs the main job: an English model learns Spanish, from raw text, on this machine.
# Arguments are passed on as overrides: bash tools/quickstart.sh dir=out/mine stages.adapt.train.max_steps=300
set -euo pipefail
cd "$(dirname "$0")/.."
bash tools/setup.sh
cmake --preset release -DBITRAIN_UNITY=ON -DBITRAIN_BUILD_TESTS=OFF -DBITRAIN_BUILD_BENCHMARKS=OFF -DBITRAIN_BUILD_EXAMPLES=OFF \
  -DBITRAIN_BUILD_PYTHON=OFF -B build/quickstart >/dev/null
echo "quickstart: building"
cmake --build build/quickstart --target bitrain_program
exec build/quickstart/bin/bitrain run recipes/quickstart/en_es.yaml "$@"
