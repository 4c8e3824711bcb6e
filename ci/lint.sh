#!/usr/bin/env bash
# The linters of .golangci.yml, or staticcheck alone where golangci-lint is not
# installed, then gosec, and then the vulnerability database. The versions are pinned
# here and not in go.mod: what checks the code is no dependency of the code.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
staticcheck=honnef.co/go/tools/cmd/staticcheck@v0.8.2
gosec=github.com/securego/gosec/v2/cmd/gosec@v2.30.0
govulncheck=golang.org/x/vuln/cmd/govulncheck@v1.8.0

# What gosec need not look for. One place that it is wrong about says
# "#nosec G…: why" on the line.
exclude=(
  G104 # an error not looked at: mostly of a Close behind which nobody is left to be told
  G115 # a number made smaller: what the peer chose is held to a limit before, and the parsers are fuzzed
)
# And where: these are no servers, and no secrets are made there.
places=(
  'internal/transport/transporttest/.*:G404' # a test kit's chance must be one that can be repeated
  'internal/loadgen/.*:G404'                 # numbers that tell one run from another
  'examples/bot/.*:G404'                     # dice
  'internal/reactor/.*:G103'                 # system calls take pointers
  'broker/brokertest/.*:G103'                # finds out what is still reachable
  'cmd/fanfare/.*:G304,G703'                 # whoever runs the program names its files
  'internal/partner/.*:G204'                 # starts other people's programs, for tests
)

go vet ./...
if command -v golangci-lint >/dev/null; then
  golangci-lint run ./...
else
  echo "golangci-lint is not installed: running $staticcheck alone"
  go run "$staticcheck" ./...
fi

# Installed for the moment only: "go run" hides the exit code, and govulncheck's tells
# what was found (3) from what could not be looked up (1).
bin=$(mktemp -d)
trap 'rm -rf "$bin"' EXIT
GOBIN=$bin go install "$gosec"
GOBIN=$bin go install "$govulncheck"
"$bin/gosec" -quiet -exclude-dir bench -exclude "$(IFS=,; echo "${exclude[*]}")" -exclude-rules "$(IFS=';'; echo "${places[*]}")" ./...
code=0
"$bin/govulncheck" ./... || code=$?
if [ $code = 3 ] || { [ $code != 0 ] && [ "${CI:-}" = true ]; }; then exit 1; fi
[ $code = 0 ] || echo "known vulnerabilities were NOT checked: the database gave no answer" >&2
