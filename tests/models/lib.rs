//! Model checks of the library's concurrent parts: they are built with the locks and atomics of loom,
//! which tries all interleavings of the threads. Run them with `cargo test -p tower-sticky-models`.
//!
//! To check another part, include its file here and add a module with its models. What the file imports
//! from `crate::util::sync` is replaced by loom; what it imports from `std` is not modelled.

#![cfg(test)]
#![allow(dead_code)] // The models do not use everything in the included files.

#[path = "../../src/pool/sessions/exact.rs"]
mod exact;
#[path = "../../src/pool/limit/fair_queue.rs"]
mod fair_queue;
#[path = "../../src/pool/limit/permits.rs"]
mod permits;
#[path = "../../src/pool/limit/quota.rs"]
mod quota;
#[path = "../../src/pool/backend/requests.rs"]
mod requests;
#[path = "../../src/util/shard_owners.rs"]
mod shard_owners;
#[path = "../../src/pool/backend/streams.rs"]
mod streams;
#[path = "../../src/pool/versioned.rs"]
mod versioned;
#[path = "../../src/pool/backend/watchers.rs"]
mod watchers;
#[path = "../../src/pool/sessions/window.rs"]
mod window;

mod change_watched;
mod limit_changes;
mod permit_wait;
mod published_value;
mod request_count;
mod session_count;
mod shard_handover;
mod streams_cut;
mod support;

/// Replaces `src/util/lock.rs` and `src/util/sync.rs`.
mod util {
    /// A panic of a model's thread fails the model, so the mutex is never poisoned.
    pub(crate) fn lock<T>(mutex: &sync::Mutex<T>) -> sync::MutexGuard<'_, T> {
        mutex.lock().expect("no thread panics under the lock")
    }

    pub(crate) mod sync {
        pub(crate) use loom::sync::{
            Mutex, MutexGuard,
            atomic::{AtomicU32, AtomicU64, AtomicUsize, Ordering, fence},
        };
        // Used only for hints that are set under a lock, so it is not modelled.
        pub(crate) use std::sync::atomic::AtomicBool;

        pub(crate) type SwapGuard<T> = std::sync::Arc<T>;

        /// Replaces `ArcSwap`, which is not checked here and assumed to be correct.
        pub(crate) struct Swap<T>(Mutex<std::sync::Arc<T>>);

        impl<T> Swap<T> {
            pub(crate) fn new(first: std::sync::Arc<T>) -> Self {
                Self(Mutex::new(first))
            }

            pub(crate) fn load(&self) -> SwapGuard<T> {
                self.0.lock().expect("no thread panics under the lock").clone()
            }

            pub(crate) fn store(&self, next: std::sync::Arc<T>) {
                *self.0.lock().expect("no thread panics under the lock") = next;
            }
        }
    }
}
