//! The locks and atomics of what is model-checked: `tests/models` includes those files with others
//! in their place, that try every order.

pub(crate) use std::sync::{
    Mutex, MutexGuard,
    atomic::{AtomicU32, AtomicU64, AtomicUsize, Ordering},
};
