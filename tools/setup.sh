#!/usr/bin/env bash
# Brings a fresh Debian 12 machine to where bitrain builds. Idempotent: installs only what is missing.
#
#   bash tools/setup.sh            what building and running needs
#   bash tools/setup.sh --tests    also the Python packages that the tests compare against
#   bash tools/setup.sh --check    installs nothing; says what is missing and exits 1 if anything is
#
# Everything lands in the system's packages and in ${XDG_CACHE_HOME:-~/.cache}/bitrain; the clone is not touched.
set -euo pipefail
cd "$(dirname "$0")/.."

want_tests=no
check_only=no
for argument in "$@"; do
  case "$argument" in
    --tests) want_tests=yes ;;
    --check) check_only=yes ;;
    *) echo "setup.sh: unknown argument '$argument' (there are --tests and --check)" >&2; exit 2 ;;
  esac
done

cache="${XDG_CACHE_HOME:-$HOME/.cache}/bitrain"
venv="$cache/venv"

packages=(
  g++ cmake ninja-build ccache lld pkg-config
  python3 python3-venv python3-dev
  nlohmann-json3-dev libyaml-cpp-dev libcli11-dev libsentencepiece-dev
  libpcre2-dev libonig-dev libutf8proc-dev zlib1g-dev libzstd-dev zstd
  libgtest-dev libgmock-dev libbenchmark-dev
  libgloo-dev  # headers alone: LibTorch brings the library
)
# The tests launch ranks by mpirun and in network namespaces, and run under locales that they make.
[ "$want_tests" = yes ] && packages+=(openmpi-bin iproute2 locales)

missing=()
for package in "${packages[@]}"; do
  dpkg-query -W -f='${Status}' "$package" 2>/dev/null | grep -q 'ok installed' || missing+=("$package")
done
# Another compiler or interpreter on the PATH (a version manager's, say) stands in for Debian's.
keep=()
for package in ${missing[@]+"${missing[@]}"}; do
  case "$package" in
    g++|cmake|ccache|python3) command -v "$package" >/dev/null && continue ;;
    ninja-build) command -v ninja >/dev/null && continue ;;
    lld) command -v ld.lld >/dev/null && continue ;;
    python3-venv) python3 -c 'import ensurepip, venv' 2>/dev/null && continue ;;
    python3-dev) python3 -c 'import os, sysconfig as s; assert os.path.exists(s.get_path("include") + "/Python.h")' 2>/dev/null && continue ;;
  esac
  keep+=("$package")
done

requirements=tools/requirements.txt
[ "$want_tests" = yes ] && requirements=tests/requirements.txt
# A stamp in the environment names what was installed; the tests' requirements include the tools'.
fingerprint_of() { cat tools/requirements.txt "$1" | sha256sum | cut -d' ' -f1; }
installed() { [ -f "$venv/.bitrain-installed" ] && grep -qx "$(fingerprint_of "$1")" "$venv/.bitrain-installed"; }
python_ready=no
if installed "$requirements" || installed tests/requirements.txt; then python_ready=yes; fi

if [ "$check_only" = yes ]; then
  echo "system packages missing: ${keep[*]:-none}"
  echo "Python packages of $requirements in $venv: $([ "$python_ready" = yes ] && echo ready || echo missing)"
  [ ${#keep[@]} -eq 0 ] && [ "$python_ready" = yes ]
  exit
fi

if [ ${#keep[@]} -gt 0 ]; then
  echo "setup: installing ${keep[*]}"
  as_root=()
  if [ "$(id -u)" != 0 ]; then
    command -v sudo >/dev/null || { echo "setup: needs root to run: apt-get install ${keep[*]}" >&2; exit 1; }
    as_root=(sudo)
  fi
  export DEBIAN_FRONTEND=noninteractive
  "${as_root[@]}" apt-get update -qq
  "${as_root[@]}" apt-get install -y -qq --no-install-recommends "${keep[@]}" >/dev/null
fi

python3 -c 'import sys; sys.exit(sys.version_info < (3, 11))' || {
  echo "setup: Python 3.11 or newer is needed, found $(python3 --version)" >&2; exit 1; }

if [ "$python_ready" = no ]; then
  echo "setup: installing $requirements into $venv (torch is large: some minutes)"
  [ -x "$venv/bin/python" ] || python3 -m venv "$venv"
  "$venv/bin/python" -m pip install --quiet --disable-pip-version-check -r "$requirements"
  fingerprint_of "$requirements" >> "$venv/.bitrain-installed"
fi
echo "setup: ready. LibTorch $("$venv/bin/python" -c 'import importlib.metadata as m; print(m.version("torch"))') in $venv"
