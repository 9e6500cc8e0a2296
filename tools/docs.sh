#!/usr/bin/env bash
# Writes the pages that are generated from the program: docs/recipe.md.
set -euo pipefail
cd "$(dirname "$0")/.."
program="${1:-build/release/bin/bitrain}"
{
  echo "# Recipe reference"
  echo
  echo "Written by \`bash tools/docs.sh\` from the option structs; every key of a recipe with its type, default and bounds."
  echo "\`bitrain config explain\` prints the same, \`bitrain config schema\` the JSON schema for editors, and"
  echo "\`bitrain validate RECIPE\` checks a recipe without running it. A recipe also needs \`schema: 1\` and \`stages:\`, a map from"
  echo "a stage's name to its \`recipe:\` (the type), \`from:\` (an earlier stage, or \`base\`; the last before it that leaves what the"
  echo "stage can read where it is left out) and the keys below. Overrides on the command line are \`a.b.c=value\`."
  "$program" config explain --markdown
} > docs/recipe.md
