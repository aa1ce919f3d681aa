//! Locks whose holders do not panic, or leave nothing half done when they do.

use std::sync::{Mutex, MutexGuard, PoisonError};

/// Locks `mutex`, whatever has become of others who held it.
pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
