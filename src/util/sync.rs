//! The locks and atomics of model-checked code. `tests/models` includes that code with the types of loom
//! instead.

use std::sync::Arc;

pub(crate) use arc_swap::ArcSwap as Swap;

pub(crate) type SwapGuard<T> = arc_swap::Guard<Arc<T>>;

pub(crate) use std::sync::{
    Mutex, MutexGuard,
    atomic::{AtomicBool, AtomicU32, AtomicU64, AtomicUsize, Ordering, fence},
};
