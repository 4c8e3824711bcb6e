#!/usr/bin/env bash
# The linters of .golangci.yml, or staticcheck alone where golangci-lint is not
# installed, and then the vulnerability database. The versions are pinned here
# and not in go.mod: what checks the code is no dependency of the code.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
staticcheck=honnef.co/go/tools/cmd/staticcheck@v0.8.2
govulncheck=golang.org/x/vuln/cmd/govulncheck@v1.9.0

go vet ./...
if command -v golangci-lint >/dev/null; then
  golangci-lint run ./...
else
  echo "golangci-lint is not installed: running $staticcheck alone"
  go run "$staticcheck" ./...
fi

if ! go run "$govulncheck" ./...; then
  if [ "${CI:-}" = true ]; then exit 1; fi
  echo "govulncheck did not pass, see above. If its database could not be reached, nothing was checked." >&2
fi
