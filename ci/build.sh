#!/usr/bin/env bash
# Builds ./fanfare, the one binary: server and terminal client.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
go build -trimpath -o fanfare ./cmd/fanfare
echo "built ./fanfare; try: ./fanfare serve"
