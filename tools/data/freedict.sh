#!/usr/bin/env bash
# Makes bilingual word lists out of FreeDict's dictionaries (the FreeDict contributors; GPL-2+, and GPL-3+ between German
# and English). They come out of Debian's packages, which are not installed. Done before: does nothing.
#
#   bash tools/data/freedict.sh [FOLDER]     default: runs/data/freedict
#
#   <a>-<b>.train.tsv, <a>-<b>.test.tsv   word, translation; no headword is in both
#   <a>-<b>.jsonl                         the training part as query and positive
set -euo pipefail
cd "$(dirname "$0")/../.."
source tools/data/debian_package.sh

folder="${1:-runs/data/freedict}"
version="2022.04.21-1"
if [ -d "$folder" ]; then
  echo "freedict.sh: $folder is there"
  exit 0
fi
mkdir -p "$(dirname "$folder")"
work="$(mktemp -d)"
trap 'rm -rf "$work"' EXIT
echo "freedict.sh: fetching ten packages, 41 MB"
while read -r package sha256; do
  fetch_package "$work" "dict-freedict-$package" "$version" "$sha256"
done <<'PACKAGES'
eng-spa 1b6a624048eddad805dcf0473a74e53420fbe391e7f2638090bddf625e9ad2b6
spa-eng debf5f88fcdaebe824704664cdbb42b6c14f82ab4adda4e91bc388b16200eefc
eng-fra b8db6774b640ae8a372bee119b4304d88e6fd471a283d1326d7ec0abcc8b930e
fra-eng fb853d1f3da00ddddfe60dc3b88b5aaca122eecf3ba5c219131bea479d6274db
eng-ita aef18ac10bd7582f99b819f634edad0dc0060e59a06f3f041a40203c53e9bb22
ita-eng f0d7a5dd47cefd2e7e8e3be19dc78df6607989324bb1ad8bc61b9a657c3a4774
eng-deu e85da1519a4d5efdbd7a5a169e828b97920f91e899f45d56fd5b2266a05b5906
deu-eng 52fa2ba6c73ebe84df0e4a7b8612a94a45e6026a157fc75f5ae36c4a1106e3db
deu-ita 1efa85af04f155797a5499de66d9a748616aed187690ea07f2e1a162359b3f4c
ita-deu 5a97b162978800f3f57266d5560228ab0744284f78b8cc118a6c431e167f5566
PACKAGES
rm -rf "$folder.partial"
python3 tools/data/freedict.py "$folder.partial" "$work/usr/share/dictd" en-es=eng-spa,spa-eng \
  en-fr=eng-fra,fra-eng en-it=eng-ita,ita-eng en-de=eng-deu,deu-eng de-it=deu-ita,ita-deu
# Written aside and renamed, so that an interruption leaves nothing half there.
mv "$folder.partial" "$folder"
echo "freedict.sh: $folder"
