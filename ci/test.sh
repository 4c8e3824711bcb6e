#!/usr/bin/env bash
# Everything that must hold before a change goes in. Ends with go test's own lines.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

ci/partners.sh

unformatted=$(find . -name '*.go' -not -path './node_modules/*' -exec gofmt -l {} +)
if [ -n "$unformatted" ]; then
  printf 'not formatted; run gofmt -w on:\n%s\n' "$unformatted" >&2
  exit 1
fi

# With -race here too, vet and test share one build of every dependency;
# and as vet has then seen it all, the tests need not vet again.
go vet -race ./...
# What needs no choice of a transport, and the modules of their own: under other people's
# routers, with certificates from an authority of ACME, and beside other servers, each of which is
# started and measured for a moment, so that the comparison cannot rot.
others() {
  (cd internal/mounts && go vet -race ./... && go test -race -vet=off -timeout 2m ./...) || return
  (cd internal/acmetest && go vet -race ./... && go test -race -vet=off -timeout 2m ./...) || return
  (cd bench && go vet -race ./... && go test -race -vet=off -timeout 2m ./...) || return
  go list ./... | grep -vxE 'fanfare|fanfare/cmd/fanfare' | xargs go test -race -vet=off -timeout 8m
}
if [ "$(go env GOOS)" = linux ]; then
  # The server over each transport: the one of TLS and other systems first, without the
  # tests that choose their transport by themselves, have TLS, or need no server, and
  # beside it the others, since mostly it waits. Then a minute of clients that come and
  # go, over both side by side.
  once='Churn|Readme.*|NothingIsSkipped|NoMachineInTheTree|.*Budget|OpenAPI|Dashboard|TransportByHand|LimitedCostsLittle|MaliciousServers|RapidReset|StuckOverHTTP2|CertificateChanges'
  FANFARE_TRANSPORT=stream go test -race -vet=off -timeout 8m -skip "^Test($once)$" . ./cmd/fanfare &
  stream=$!
  others || { wait "$stream"; exit 1; }
  wait "$stream"
  FANFARE_TRANSPORT=reactor go test -race -vet=off -timeout 8m -skip '^TestChurn$' . ./cmd/fanfare
  FANFARE_CHURN=1m exec go test -race -vet=off -timeout 5m -run '^TestChurn$' .
fi
others
FANFARE_CHURN=1m exec go test -race -vet=off -timeout 15m . ./cmd/fanfare
