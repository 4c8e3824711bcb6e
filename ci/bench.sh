#!/usr/bin/env bash
# Runs the benchmarks with allocation counts. BENCH picks some by regular expression.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
exec go test -run '^$' -bench "${BENCH:-.}" -benchmem ./...
