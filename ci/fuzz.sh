#!/usr/bin/env bash
# Runs every fuzz target for FUZZTIME (default 30s), one after another. What is
# found lands in the package's testdata/fuzz: commit it as a seed with its fix.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
time=${FUZZTIME:-30s}
targets=$(grep -rHo --include='*_test.go' --exclude-dir=node_modules '^func Fuzz[A-Za-z0-9_]*' . | sort)
[ -n "$targets" ] || { echo "no fuzz targets in the tree" >&2; exit 1; }
log=$(mktemp)
trap 'rm -f "$log"' EXIT
while IFS=: read -r file func; do
  name=${func#func }
  echo "== $(dirname "$file") $name, $time"
  go test -run '^$' -fuzz "^$name\$" -fuzztime "$time" "$(dirname "$file")" 2>&1 </dev/null | tee "$log" && continue
  # Before Go 1.27 the end of the time itself is now and then reported as a
  # failure (https://go.dev/issue/75804). Then this is all it says, and no input was written.
  if [ "$(sed -n '/^--- FAIL:/,/^FAIL$/p' "$log" | sed 1d)" != $'    context deadline exceeded\nFAIL' ]; then exit 1; fi
  echo "nothing was found: Go took the end of the time for a failure (https://go.dev/issue/75804)"
done <<<"$targets"
