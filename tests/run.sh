#!/usr/bin/env bash
# Everything that has to pass: format, lints, documentation, and every test with every feature.
# Installs what is missing (Debian packages, when root), else says what to install.
set -euo pipefail
cd "$(dirname "$0")/.."

# Every test is built once here: what incremental compilation would store is never read again.
export CARGO_INCREMENTAL=0

step() { printf '\n== %s (%s s)\n' "$*" "$SECONDS"; }

# Program and Debian package of what the tests need besides Rust.
source tests/support/packages.sh
need=()
for pair in chromium:chromium chromedriver:chromium-driver redis-server:redis-server node:nodejs npm:npm \
  nginx:nginx-light haproxy:haproxy curl:curl openssl:openssl python3:python3 prometheus:prometheus \
  systemd-analyze:systemd; do
  command -v "${pair%%:*}" >/dev/null || need+=("${pair##*:}")
done
python3 -c 'import ensurepip' 2>/dev/null || need+=(python3-venv)
install_packages "${need[@]}"

step "clients"
npm ci --prefix tests/heavy/clients/node --no-audit --no-fund --silent
bash tests/heavy/peers/venv.sh

step "format"
cargo fmt --all --check

step "lints"
cargo clippy --locked --workspace --all-targets --all-features -- -D warnings

step "each feature by itself"
for features in "" admin axum discover dns metrics proxy redis redis-tls serve tls proxy,tls serve,tls session redis,session axum,session tonic trace full; do
  cargo clippy --locked --quiet --lib --no-default-features --features "$features" -- -D warnings
done

step "documentation"
RUSTDOCFLAGS="-D warnings" cargo doc --locked --workspace --no-deps --all-features --quiet

step "tests"
python3 tests/run_tests.py

step "miri"
if timeout 300 rustup component add --toolchain nightly miri rust-src >/dev/null 2>&1; then
  bash tests/miri.sh
else
  echo "left out: no nightly toolchain with Miri (rustup toolchain install nightly --profile minimal -c miri -c rust-src)"
fi

# Its build takes many minutes.
if [ "${FUZZ:-}" = 1 ]; then
  step "fuzzing"
  bash fuzz/run.sh 10
fi
