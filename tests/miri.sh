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
  admin::explain:: admin::page:: affinity:: discovery:: dispatch:: error:: hash:: health:: id:: metrics:: outcome::
  pool:: redis::address:: serve::connection_limit:: serve::proxy_protocol:: serve::refusal:: session::action::
  session::info:: session::peer:: session_data::fence:: session_data::redis::format:: session_data::refused:: store::
  strategy:: upstream:: util::
)

skip=(
  # These seal tokens, too.
  affinity::route::codes:: dispatch::candidates:: dispatch::choose:: strategy::least_sessions::

  # These begin TLS.
  upstream::http::handshake::

  # These need a listener whose queue is full, a server of HTTP/2, or ten thousand threads.
  upstream::http::dial:: upstream::grpc:: upstream::http::http2::

  # Its cache uses crossbeam-epoch, which the rules of Stacked Borrows forbid.
  upstream::http::resolve::

  # It sets options of sockets.
  socket_options::

  # These try thousands of inputs, count thousands of choices, or fill large tables.
  client_ip::address::tests::long_lists client_ip::address::tests::random hash::bounded_load::
  hash::golden:: hash::log2:: hash::maglev:: hash::mixing:: hash::rendezvous::
  metrics::access_log::escape:: pool::events::tests::slow_listener pool::limit::quota:: pool::limit_tests::
  pool::move_log:: pool::removed::tests::oldest pool::saved_sessions:: pool::session_balance::tests::large_pools
  pool::sessions::counter:: pool::snapshot::tests::the_epoch_changes upstream::http::idle_pool::tests::dropped_pools
  pool::sessions::last_seen::tests::oldest pool::sessions::marks:: pool::sessions::saved:: store::memory::
  least_connections::tests::idle_backends_are least_connections::tests::load least_connections::tests::slow_start
  strategy::p2c:: strategy::peak_ewma:: strategy::random:: strategy::rendezvous:: strategy::weighted::
  round_robin::tests::credits round_robin::tests::load round_robin::tests::missing round_robin::tests::turns
  util::rate_limiter::
)

arguments=("${modules[@]}")
for path in "${skip[@]}"; do
  arguments+=(--skip "$path")
done
# Tests look at the clock.
export MIRIFLAGS="${MIRIFLAGS:-} -Zmiri-disable-isolation"
cargo +nightly miri test --locked --lib --all-features -- "${arguments[@]}"
