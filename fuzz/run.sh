#!/usr/bin/env bash
# Runs each fuzz target for some seconds: bash fuzz/run.sh SECONDS [TARGET…]. Fails on a crash, and says how many
# executions there were. Needs a nightly toolchain and cargo-fuzz. Without an address sanitizer, as there is no unsafe
# code.
set -euo pipefail
cd "$(dirname "$0")"

seconds=${1:-}
case "$seconds" in
  '' | *[!0-9]*)
    echo "usage: bash fuzz/run.sh SECONDS [TARGET...]" >&2
    exit 2
    ;;
esac
shift

if ! rustup run nightly rustc --version >/dev/null 2>&1; then
  echo "missing: a nightly toolchain; install it with: rustup toolchain install nightly --profile minimal" >&2
  exit 3
fi
if ! command -v cargo-fuzz >/dev/null; then
  echo "missing: cargo-fuzz; install it with: cargo install cargo-fuzz --locked" >&2
  exit 3
fi

fuzz=(cargo +nightly fuzz)
built="${CARGO_TARGET_DIR:-target}"
cd ..
"${fuzz[@]}" build --sanitizer none
targets=("$@")
if [ "${#targets[@]}" = 0 ]; then
  mapfile -t targets < <("${fuzz[@]}" list)
fi
host=$(rustup run nightly rustc --print host-tuple)
[[ $built = /* ]] || built="fuzz/$built"

failed=()
for target in "${targets[@]}"; do
  # What is found goes to a directory of its own: the committed corpus is small.
  found="$built/corpus/$target"
  log="$built/corpus/$target.log"
  mkdir -p "$found" "fuzz/artifacts/$target"
  if "$built/$host/release/$target" -max_total_time="$seconds" -timeout=20 -rss_limit_mb=2048 -max_len=2048 \
    -print_final_stats=1 -artifact_prefix="fuzz/artifacts/$target/" "$found" "fuzz/corpus/$target" >"$log" 2>&1; then
    executions=$(sed -n 's/^stat::number_of_executed_units: *//p' "$log")
    rate=$(sed -n 's/^stat::average_exec_per_sec: *//p' "$log")
    printf '%-16s %12s executions, %8s a second\n' "$target" "$executions" "$rate"
  else
    printf '%-16s FAILED\n' "$target"
    tail -n 40 "$log"
    failed+=("$target")
  fi
done
if [ "${#failed[@]}" -gt 0 ]; then
  echo "crashes in ${failed[*]}: see fuzz/artifacts, and repeat one with fuzz/run.sh's build and the file as argument" >&2
  exit 1
fi
