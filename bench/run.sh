#!/usr/bin/env bash
# Measures Fanfare beside its peers and the kernel's floor; -h says how. The program itself is bench/measure.
set -euo pipefail
bench=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
command -v go >/dev/null || { echo "bench: there is no go here, and it builds the servers: install Go 1.25 or later" >&2; exit 1; }
(cd "$bench" && go build -o out/measure ./measure)
exec "$bench/out/measure" "$@"
