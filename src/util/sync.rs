//! The locks and atomics of what is model-checked: `tests/models` includes those files with others
//! in their place, that try every order.

use std::sync::Arc;

pub(crate) use arc_swap::ArcSwap as Swap;

pub(crate) type SwapGuard<T> = arc_swap::Guard<Arc<T>>;

pub(crate) use std::sync::{
    Mutex, MutexGuard,
    atomic::{AtomicBool, AtomicU32, AtomicU64, AtomicUsize, Ordering},
};
