#!/usr/bin/env bash
# Makes retrieval sets, training pairs and parallel text out of LibreOffice's help (MPL-2.0, The Document Foundation and
# contributors) in English, Spanish, German, French and Polish. The pages come out of Debian's packages, which are not
# installed. Done before: does nothing.
#
#   bash tools/data/libreoffice_help.sh [FOLDER]     default: runs/data/help
#
#   <q>-<d>/              BEIR layout: titles of held-out pages in language q, texts of all pages in language d
#   pairs/<q>-<d>.jsonl   query and positive: titles in q and texts in d of the other pages
#   parallel/en-<x>.tsv   page, English, translation: aligned segments of the other pages
set -euo pipefail
cd "$(dirname "$0")/../.."
source tools/data/debian_package.sh

folder="${1:-runs/data/help}"
version="4:7.4.7-1+deb12u14"
if [ -d "$folder" ]; then
  echo "libreoffice_help.sh: $folder is there"
  exit 0
fi
mkdir -p "$(dirname "$folder")"
work="$(mktemp -d)"
trap 'rm -rf "$work"' EXIT
echo "libreoffice_help.sh: fetching five packages, 15 MB"
while read -r package sha256; do
  fetch_package "$work" "libreoffice-help-$package" "$version" "$sha256"
done <<'PACKAGES'
en-us 8faa840285734d6cfe1ed25537b48f07e74bd6412e3917bf8e5f8a653f7b3712
es 9128a84d83d92c8b1c618d90469d16affddb7d1290b09d42a0c5109cb16f0480
de 00490b63c509ac96f7f212d6a6e40452d3e0d1f97ccf4b824dd5ec4c01e8277f
fr c796530d3e95af1ea4d054076682efc8aad2b569ae9513f3d4a776b2df3fd206
pl 27441ce6d1303524b223aa94a17356bf7195f388d9b05a9e5e346866d7983694
PACKAGES
help="$work/usr/share/libreoffice/help"
rm -rf "$folder.partial"
python3 tools/data/libreoffice_help.py "$folder.partial" \
  en="$help/en-US/text" es="$help/es/text" de="$help/de/text" fr="$help/fr/text" pl="$help/pl/text"
# Written aside and renamed, so that an interruption leaves nothing half there.
mv "$folder.partial" "$folder"
echo "libreoffice_help.sh: $folder"
