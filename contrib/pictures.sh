#!/usr/bin/env bash
# Makes the pictures of the README, in contrib/pictures: the demo's shop, and the dashboard after a session has moved.
# Needs Chromium and curl. GATEWAY names a gateway that is built already.
set -euo pipefail
cd "$(dirname "$0")/.."

if [ -z "${GATEWAY:-}" ]; then
  cargo build --locked --release --all-features --example gateway
  GATEWAY=target/release/examples/gateway
fi
work=$(mktemp -d)
"$GATEWAY" --listen 127.0.0.1:8099 --admin 127.0.0.1:9099 >"$work/log" 2>&1 &
gateway=$!
trap 'kill "$gateway"; rm -rf "$work"' EXIT
curl --silent --fail --retry 50 --retry-connrefused --retry-delay 1 --output /dev/null http://127.0.0.1:9099/healthz

# Nine customers, whose sessions are on all shops.
for customer in $(seq 9); do
  for _ in 1 2; do
    curl --silent --cookie "$work/$customer" --cookie-jar "$work/$customer" --output /dev/null \
      http://127.0.0.1:8099/
  done
done
curl --silent --request PATCH --data '{"mode":"disabled"}' --output /dev/null http://127.0.0.1:9099/backends/shop-a
for customer in $(seq 9); do
  curl --silent --cookie "$work/$customer" --cookie-jar "$work/$customer" --output /dev/null http://127.0.0.1:8099/
done

mkdir -p contrib/pictures
picture() {
  chromium --headless --no-sandbox --disable-gpu --disable-background-networking --disable-component-update \
    --disable-sync --no-first-run --hide-scrollbars --timeout=4000 --user-data-dir="$work/profile" \
    --window-size="$3" --screenshot="contrib/pictures/$1.png" "$2" 2>/dev/null
}
picture demo http://127.0.0.1:8099/ 900,620
picture dashboard http://127.0.0.1:9099/ 1100,1150
