#!/usr/bin/env bash
# Runs the unit tests of the library under Miri, as far as it can: bash tests/miri.sh. It finds undefined behaviour, data
# races and leaks, in dependencies too. Needs a nightly toolchain with Miri.
set -euo pipefail
cd "$(dirname "$0")/.."

if ! rustup run nightly cargo miri --version >/dev/null 2>&1; then
  echo "missing: Miri; install it with: rustup toolchain install nightly --profile minimal -c miri -c rust-src" >&2
  exit 3
fi

# The rooms without cryptography; Miri runs no foreign functions, and ring is C and assembly.
modules=(
  admin::page:: affinity:: discovery:: dispatch:: error:: hash:: health:: id:: metrics:: outcome:: pool::
  redis::address:: session::action:: session::info:: session::peer:: session_data::fence:: session_data::redis::format::
  session_data::refused:: store:: upstream:: util::
)

skip=(
  # These seal tokens, too.
  dispatch::candidates:: dispatch::choose::

  # These open sockets.
  idle_pool:: socket_options::

  # These try thousands of inputs, count thousands of choices, or fill large tables.
  client_ip::address:: hash::bounded_load:: hash::golden:: hash::log2:: hash::maglev:: hash::mixing:: hash::rendezvous::
  metrics::access_log::escape:: pool::events::tests::slow_listener pool::limit::quota:: pool::limit_tests::
  pool::move_log:: pool::removed::tests::oldest pool::saved_sessions:: pool::sessions::counter::
  pool::sessions::last_seen::tests::oldest pool::sessions::saved:: store::memory:: util::rate_limiter::
)

arguments=("${modules[@]}")
for path in "${skip[@]}"; do
  arguments+=(--skip "$path")
done
# Tests look at the clock.
export MIRIFLAGS="${MIRIFLAGS:-} -Zmiri-disable-isolation"
cargo +nightly miri test --locked --lib --all-features -- "${arguments[@]}"
