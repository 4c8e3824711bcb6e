#!/usr/bin/env bash
# The programs that our tests talk with: Debian's python3-websockets, Node's ws,
# Chromium and curl (and a C compiler, which the race detector needs). Installs what
# is absent where apt-get may be used without a question, then prints what there is.
# What is still missing is skipped by the tests and said here; with CI=true it is an error, as the compiler always is.
# internal/partner looks in the same places.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

# find_python prints the first python3 that has websockets: the one in PATH may not be Debian's.
find_python() {
  local p
  for p in python3 /usr/bin/python3; do
    if "$p" -c 'import websockets' 2>/dev/null; then echo "$p"; return; fi
  done
  return 1
}
has_ws() { NODE_PATH="${NODE_PATH:-}:$PWD/node_modules" node -e 'require("ws").WebSocketServer || process.exit(1)' 2>/dev/null; }
has_cc() { local cc; cc=$(go env CC); command -v "${cc%% *}" >/dev/null; }
find_chromium() {
  local c
  for c in chromium chromium-browser google-chrome google-chrome-stable headless-shell; do
    if command -v "$c"; then return; fi
  done
  return 1
}

install() {
  local root=() log
  if [ "$(id -u)" != 0 ]; then
    sudo -n true 2>/dev/null || { echo "not root, and sudo asks for a password: not installing $*" >&2; return 0; }
    root=(sudo -n)
  fi
  command -v apt-get >/dev/null || { echo "no apt-get here: not installing $*" >&2; return 0; }
  echo "installing $*"
  log=$(mktemp)
  local get=("${root[@]}" env DEBIAN_FRONTEND=noninteractive apt-get -q -y -o Dpkg::Use-Pty=0)
  # A first try with the lists as they are; they may be missing or old.
  "${get[@]}" install --no-install-recommends "$@" >"$log" 2>&1 </dev/null ||
    { "${get[@]}" update && "${get[@]}" install --no-install-recommends "$@"; } >"$log" 2>&1 </dev/null ||
    { echo "apt-get could not install $*:" >&2; tail -n 5 "$log" >&2; }
  rm -f "$log"
}

want=()
has_cc || want+=(gcc libc6-dev)
find_python >/dev/null || want+=(python3-websockets)
find_chromium >/dev/null || want+=(chromium)
command -v curl >/dev/null || want+=(curl)
if ! has_ws; then
  command -v node >/dev/null || want+=(nodejs)
  command -v npm >/dev/null || want+=(npm)
fi
[ ${#want[@]} = 0 ] || install "${want[@]}"
if ! has_ws && command -v npm >/dev/null; then
  echo "installing ws into node_modules"
  npm install --prefix . --no-save --no-package-lock --no-audit --no-fund --ignore-scripts --loglevel=error ws@8 >/dev/null </dev/null ||
    echo "npm could not install ws" >&2
fi

missing=()
say() { printf '  %-20s %s\n' "$1" "$2"; }
skip() { say "$1" "MISSING: its tests are SKIPPED; install $2"; missing+=("$1"); }
echo "partners:"
say go "$(go env GOVERSION)"
if p=$(find_python); then
  say python3-websockets "$("$p" -c 'import platform, websockets.version as w; print(w.version, "on Python", platform.python_version())')"
else
  skip python3-websockets "python3-websockets"
fi
if has_ws; then
  say "ws" "$(NODE_PATH="${NODE_PATH:-}:$PWD/node_modules" node -p 'require("ws/package.json").version + " on Node " + process.version')"
else
  skip "ws" "nodejs and npm, then run ci/partners.sh"
fi
if c=$(find_chromium); then say chromium "$("$c" --version 2>/dev/null)"; else skip chromium "chromium"; fi
if command -v curl >/dev/null; then say curl "$(curl --version | sed -n '1s/^curl \([^ ]*\).*/\1/p')"; else skip curl "curl"; fi
go list -m -f '  {{printf "%-20s" .Path}} {{.Version}}' github.com/coder/websocket github.com/gorilla/websocket

if ! has_cc; then
  echo "there is no C compiler ($(go env CC)), and the race detector needs one: install gcc and libc6-dev, or set CC" >&2
  exit 1
fi
if [ ${#missing[@]} -gt 0 ] && [ "${CI:-}" = true ]; then
  echo "CI=true, and missing: ${missing[*]}" >&2
  exit 1
fi
