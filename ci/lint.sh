#!/usr/bin/env bash
# The linters of .golangci.yml, or staticcheck alone where golangci-lint is not
# installed, and then the vulnerability database. The versions are pinned here
# and not in go.mod: what checks the code is no dependency of the code.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
staticcheck=honnef.co/go/tools/cmd/staticcheck@v0.8.2
govulncheck=golang.org/x/vuln/cmd/govulncheck@v1.8.0

go vet ./...
if command -v golangci-lint >/dev/null; then
  golangci-lint run ./...
else
  echo "golangci-lint is not installed: running $staticcheck alone"
  go run "$staticcheck" ./...
fi

# Installed for the moment only: "go run" hides the exit code, and that tells
# what was found (3) from what could not be looked up (1).
bin=$(mktemp -d)
trap 'rm -rf "$bin"' EXIT
GOBIN=$bin go install "$govulncheck"
code=0
"$bin/govulncheck" ./... || code=$?
if [ $code = 3 ] || { [ $code != 0 ] && [ "${CI:-}" = true ]; }; then exit 1; fi
[ $code = 0 ] || echo "known vulnerabilities were NOT checked: the database gave no answer" >&2
