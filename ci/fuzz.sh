#!/usr/bin/env bash
# Runs every fuzz target for FUZZTIME (default 30s), one after another. What is
# found lands in the package's testdata/fuzz: commit it as a seed with its fix.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
time=${FUZZTIME:-30s}
targets=$(grep -rHo --include='*_test.go' --exclude-dir=node_modules '^func Fuzz[A-Za-z0-9_]*' . | sort)
[ -n "$targets" ] || { echo "no fuzz targets in the tree" >&2; exit 1; }
while IFS=: read -r file func; do
  name=${func#func }
  echo "== $(dirname "$file") $name, $time"
  go test -run '^$' -fuzz "^$name\$" -fuzztime "$time" "$(dirname "$file")"
done <<<"$targets"
