#!/bin/sh
# Every face of a channel's URL that needs no WebSocket, with nothing but curl.
#
#   sh faces.sh                                      # a channel of localhost:8765
#   sh faces.sh http://localhost:8765/chat/general
set -eu
url=${1:-http://localhost:8765/demo/curl}

say() { printf '\n# %s\n' "$*"; }
# What is live does not end by itself: here it does with the last message that this script publishes.
pipe=$(mktemp -u)
mkfifo "$pipe"
trap 'rm "$pipe"' EXIT
live() {
  curl -sSN "$@" >"$pipe" &
  sed '/"n":2/q' "$pipe"
  kill $! 2>/dev/null || true
}

say 'POST publishes a text. The answer is its position.'
curl -sS --data 'Hello from curl' "$url?name=curl"

say 'With an Idempotency-Key it can be repeated, and is one message. ?client= says that it is still us.'
me=$(od -An -N16 -tx1 /dev/urandom | tr -d ' \n')
order() { curl -sS -H 'Idempotency-Key: order-17' --data '{"type":"order","item":"tea"}' "$url?name=curl&client=$me"; }
order
order
position=$(order | sed 's/.*"position":"\([^"]*\)".*/\1/')

say 'Bytes are published as they are.'
printf '\000\001\377' | curl -sS -H 'Content-Type: application/octet-stream' --data-binary @- "$url"

say 'Many at once: a line for each, and a line of the answer for each.'
printf '%s\n' '{"data":"one"}' '{"data":{"n":2},"key":"n"}' '{"data":' |
  curl -sS -H 'Content-Type: application/x-ndjson' --data-binary @- "$url"

say 'GET is a page of history: here the newest two.'
curl -sS "$url?limit=2"

say 'Server-sent events: what was missed since a position (here, since the order), then what is new.'
live -H 'Accept: text/event-stream' "$url?since=$position"

say 'The same as a line of JSON for each message, and from all channels beside this one.'
live -H 'Accept: application/x-ndjson' "${url%/*}/**?since=$position"

say 'HEAD is what GET would say.'
curl -sSI "$url" | grep -i "^content-"

say 'OPTIONS is what is allowed.'
curl -sS -i -X OPTIONS "$url" | grep -i "^allow"

say 'What cannot be done has a code for programs and a sentence for people.'
curl -sS --data 'Hello?' "${url%/*}/*"
