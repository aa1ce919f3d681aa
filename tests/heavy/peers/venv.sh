#!/usr/bin/env bash
# Makes the Python environment of the tests, with the packages of requirements.txt, again when these change.
set -euo pipefail
here="$(dirname "$0")"
venv="$here/../../../target/peers-venv"
if ! cmp -s "$here/requirements.txt" "$venv/requirements.txt"; then
  rm -rf "$venv"
  python3 -m venv "$venv"
  "$venv/bin/pip" install --quiet --disable-pip-version-check --requirement "$here/requirements.txt"
  cp "$here/requirements.txt" "$venv/requirements.txt"
fi
