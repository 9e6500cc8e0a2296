#!/usr/bin/env bash
# Builds the fuzz targets under AddressSanitizer and UndefinedBehaviorSanitizer and runs each for SECONDS (default 60).
# A finding stops the run; the input that caused it is left in build/asan/fuzz-findings.
set -euo pipefail
cd "$(dirname "$0")/.."
seconds="${1:-60}"
cmake --preset asan -DBITRAIN_UNITY=ON >/dev/null
mapfile -t targets < <(basename -s .cpp -a tests/fuzz/*_fuzz.cpp)
programs=()
for target in "${targets[@]}"; do programs+=("fuzz_${target%_fuzz}"); done
cmake --build build/asan --target "${programs[@]}"
export ASAN_OPTIONS=detect_leaks=0:allocator_may_return_null=1 UBSAN_OPTIONS=print_stacktrace=1
mkdir -p build/asan/fuzz-findings
printf '%s\n' "${programs[@]}" | xargs -P 2 -I{} sh -c \
  'build/asan/bin/{} --seconds "$0" --findings build/asan/fuzz-findings >build/asan/{}.log 2>&1 \
     && echo "fuzz: {}: $(tail -n 1 build/asan/{}.log)" \
     || { echo "fuzz: {} FAILED"; tail -n 40 build/asan/{}.log; exit 255; }' "$seconds"
