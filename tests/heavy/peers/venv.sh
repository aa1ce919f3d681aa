#!/usr/bin/env bash
# Makes the Python environment of these tests, with gRPC, once.
set -euo pipefail
venv="$(dirname "$0")/../../../target/peers-venv"
if ! "$venv/bin/python" -c 'import grpc' 2>/dev/null; then
  rm -rf "$venv"
  python3 -m venv "$venv"
  "$venv/bin/pip" install --quiet --disable-pip-version-check grpcio
fi
