//! Parts of the library with loom's locks and atomics in place of those of `std`, so that loom tries
//! every order in which threads can meet. Nothing to set: `cargo test -p tower-sticky-models`.
//!
//! One more part: include its file here, and write its models next to the others. What it takes from
//! `crate::util::sync` is loom's; what it takes from `std` directly is not modelled.

#![cfg(test)]
#![allow(dead_code)] // The library uses more of them than the models do.

#[path = "../../src/pool/limit/fair_queue.rs"]
mod fair_queue;
#[path = "../../src/pool/limit/permits.rs"]
mod permits;
#[path = "../../src/pool/limit/quota.rs"]
mod quota;
#[path = "../../src/pool/backend/requests.rs"]
mod requests;
#[path = "../../src/pool/backend/streams.rs"]
mod streams;
#[path = "../../src/pool/versioned.rs"]
mod versioned;

mod slots_limit;
mod slots_wait;
mod streams_cut;
mod support;
mod swap;
mod traffic_count;

/// What `src/util/sync.rs` gives to the library.
mod util {
    /// A panic of a model's thread fails the model, so the mutex is never poisoned.
    pub(crate) fn lock<T>(mutex: &sync::Mutex<T>) -> sync::MutexGuard<'_, T> {
        mutex.lock().expect("no thread panics under the lock")
    }

    pub(crate) mod sync {
        pub(crate) use loom::sync::{
            Mutex, MutexGuard,
            atomic::{AtomicU32, AtomicU64, AtomicUsize, Ordering},
        };
        // Only hints, set under a lock: they add no orders to try.
        pub(crate) use std::sync::atomic::AtomicBool;

        pub(crate) type SwapGuard<T> = std::sync::Arc<T>;

        /// Stands for an `ArcSwap`: that is not ours to check, and is taken to do what it says.
        pub(crate) struct Swap<T>(Mutex<std::sync::Arc<T>>);

        impl<T> Swap<T> {
            pub(crate) fn new(first: std::sync::Arc<T>) -> Self {
                Self(Mutex::new(first))
            }

            pub(crate) fn load(&self) -> SwapGuard<T> {
                self.0.lock().expect("nobody fails under the lock").clone()
            }

            pub(crate) fn store(&self, next: std::sync::Arc<T>) {
                *self.0.lock().expect("nobody fails under the lock") = next;
            }
        }
    }
}
