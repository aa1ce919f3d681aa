//! Parts of the library with loom's locks and atomics in place of those of `std`, so that loom tries
//! every order in which threads can meet. Nothing to set: `cargo test -p tower-sticky-models`.
//!
//! One more part: include its file here, and write its models next to the others. What it takes from
//! `crate::sync` is loom's; what it takes from `std` directly is not modelled.

#![cfg(test)]
#![allow(dead_code)] // The library uses more of them than the models do.

#[path = "../../src/backend/places.rs"]
mod places;
#[path = "../../src/backend/slots.rs"]
mod slots;
#[path = "../../src/backend/streams.rs"]
mod streams;
#[path = "../../src/backend/traffic.rs"]
mod traffic;
#[path = "../../src/backend/turns.rs"]
mod turns;

mod slots_limit;
mod slots_wait;
mod streams_cut;
mod support;
mod traffic_count;

/// What `src/sync.rs` gives to the library.
mod sync {
    pub(crate) use loom::sync::{
        Mutex, MutexGuard,
        atomic::{AtomicU32, AtomicU64, AtomicUsize, Ordering},
    };
}
