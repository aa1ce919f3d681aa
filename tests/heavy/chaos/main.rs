//! Real processes under random faults, with real clients, and what must be true of every request.
//!
//! Backends are killed, told to stop, paused, told to drop connections or to fail, removed, drained,
//! disabled and weighed, and the gateway is restarted. Nothing of that may cost a request that a backend
//! could have answered, nor move a session without need.
//!
//! `CHAOS_SECONDS` is how long a storm lasts, 4 s if nothing is said; there is one for each kind of
//! affinity. What happens in it follows from `CHAOS_SEED`, which is said at the start; which requests it
//! meets does not.

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
#[path = "../dns/server.rs"]
mod name_server;
mod plan;
mod random;
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

/// How long a storm lasts.
fn length() -> Duration {
    let seconds = env::var("CHAOS_SECONDS").map_or(4.0, |text| text.parse().expect("seconds"));
    Duration::from_secs_f64(seconds)
}

/// Runs one storm, while no other one does.
fn alone<F: Future<Output = ()>>(name: &str, storm: impl FnOnce(Random) -> F) {
    static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());
    let _one = ONE_AT_A_TIME.lock().unwrap_or_else(PoisonError::into_inner);
    let now = || SystemTime::UNIX_EPOCH.elapsed().unwrap().subsec_nanos().into();
    let seed = env::var("CHAOS_SEED").map_or_else(|_| now(), |text| text.parse().expect("a seed"));
    println!("{name}: CHAOS_SEED={seed} CHAOS_SECONDS={}", length().as_secs_f64());
    let runtime = Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    runtime.block_on(storm(Random::new(seed)));
}
