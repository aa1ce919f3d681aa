//! Real processes and clients under random faults, and the invariants of every request.
//!
//! Backends are killed, terminated, paused, made to drop connections or to fail, removed, drained,
//! disabled and weighted, and the gateway is restarted. None of that may fail a request that a backend
//! could have answered, or move a session without need.
//!
//! `CHAOS_SECONDS` is the duration of a run, 4 s by default; there is one run for each kind of
//! affinity. The faults follow from `CHAOS_SEED`, which is printed at the start; the requests that they
//! hit do not. `CHAOS_LOG` is the filter of the gateway's log, `error` by default; its lines are printed.

#![allow(missing_docs, missing_debug_implementations, unreachable_pub, clippy::unwrap_used)]

mod aborts;
mod admin;
mod breaks;
mod check;
mod clients;
mod exchange;
mod fleet;
mod gateway;
mod hostile;
mod keys;
mod kind;
mod kinds;
mod mesh;
#[allow(dead_code, reason = "each test uses its part of it")]
#[path = "../../support/name_server.rs"]
mod name_server;
mod plan;
mod random;
mod soak;
mod storm;
mod timeline;
mod websockets;

use std::{
    env,
    future::Future,
    sync::{Mutex, PoisonError},
    time::{Duration, SystemTime},
};

use random::Random;
use tokio::runtime::Builder;

/// The duration of a run.
fn length() -> Duration {
    let seconds = env::var("CHAOS_SECONDS").map_or(4.0, |text| text.parse().expect("seconds"));
    Duration::from_secs_f64(seconds)
}

/// Runs one scenario while no other one runs.
fn alone<F: Future<Output = ()>>(name: &str, storm: impl FnOnce(Random) -> F) {
    static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());
    let _one = ONE_AT_A_TIME.lock().unwrap_or_else(PoisonError::into_inner);
    let now = || SystemTime::UNIX_EPOCH.elapsed().unwrap().subsec_nanos().into();
    let seed = env::var("CHAOS_SEED").map_or_else(|_| now(), |text| text.parse().expect("a seed"));
    println!("{name}: CHAOS_SEED={seed} CHAOS_SECONDS={}", length().as_secs_f64());
    let runtime = Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    runtime.block_on(storm(Random::new(seed)));
}
