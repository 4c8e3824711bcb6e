#!/usr/bin/env bash
# Lets clients come, freeze, break the rules and vanish for SOAK (default 30m)
# under the race detector, over each transport, and fails unless the servers then
# hold as many descriptors and goroutines as before and no more heap. A line
# every ten seconds; the seeds are printed.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
FANFARE_CHURN=${SOAK:-30m} exec go test -race -count 1 -timeout 0 -v -run '^TestChurn$' .
