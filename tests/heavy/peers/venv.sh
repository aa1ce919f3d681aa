#!/usr/bin/env bash
# Makes the Python environment of these tests, with gRPC and a validator of OpenAPI, once.
set -euo pipefail
venv="$(dirname "$0")/../../../target/peers-venv"
if ! "$venv/bin/python" -c 'import grpc, openapi_spec_validator' 2>/dev/null; then
  rm -rf "$venv"
  python3 -m venv "$venv"
  "$venv/bin/pip" install --quiet --disable-pip-version-check grpcio openapi-spec-validator
fi
