//! `UpgradeGuard`: keeps a request in flight after the end of its response's body.

use std::{
    any::Any,
    fmt,
    sync::{Arc, Mutex, MutexGuard},
};

use tokio::sync::watch;

use crate::{pool::DrainSignal, util::lock};

/// Tells the layer that a backend continues to work for the session after the response has ended, as with
/// an upgraded connection (WebSocket).
///
/// The backend creates a [`pair`](Self::pair), puts the `UpgradeGuard` into the **response's** extensions,
/// and moves the [`UpgradeEnd`] into the task that continues. The layer adds to the `UpgradeGuard` what
/// must live as long, which is the guard that counts the request as in flight. Dropping the `UpgradeEnd`
/// drops these guards.
///
/// # Example
///
/// ```
/// use tower_sticky::UpgradeGuard;
///
/// let (upgrade, end) = UpgradeGuard::pair();
/// let in_flight = std::sync::Arc::new(());
///
/// upgrade.keep(in_flight.clone());
/// assert_eq!(std::sync::Arc::strong_count(&in_flight), 2);
/// drop(end); // the tunnel has ended
/// assert_eq!(std::sync::Arc::strong_count(&in_flight), 1);
/// ```
#[derive(Clone)]
pub struct UpgradeGuard {
    shared: Arc<Shared>,
}

/// The other end of an [`UpgradeGuard`]: dropping it drops everything that the guard keeps, and what is
/// added later is dropped immediately.
#[must_use = "dropping the end drops what the guard keeps"]
pub struct UpgradeEnd {
    shared: Arc<Shared>,
}

struct Shared {
    /// `None` once released.
    guards: Mutex<Option<Vec<Box<dyn Any + Send>>>>,
    /// The drain signal, once the layer has set it.
    signal: watch::Sender<Option<DrainSignal>>,
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Option<Vec<Box<dyn Any + Send>>>> {
        lock(&self.guards)
    }
}

impl UpgradeGuard {
    /// Creates a guard and its end.
    pub fn pair() -> (Self, UpgradeEnd) {
        let guards = Mutex::new(Some(Vec::new()));
        let shared = Arc::new(Shared { guards, signal: watch::Sender::new(None) });
        (Self { shared: shared.clone() }, UpgradeEnd { shared })
    }

    /// Keeps `guard` until the end is dropped. Drops it immediately if that has happened.
    pub fn keep(&self, guard: impl Send + 'static) {
        if self.is_released() {
            return;
        }
        let guard: Box<dyn Any + Send> = Box::new(guard);
        let late = match &mut *self.shared.lock() {
            Some(guards) => {
                guards.push(guard);
                None
            }
            None => Some(guard),
        };
        // The destructor of a guard is foreign code, so it never runs under the lock.
        drop(late);
    }

    /// Gives the drain signal of the backend to the end.
    pub(crate) fn set_drain_signal(&self, signal: DrainSignal) {
        self.shared.signal.send_replace(Some(signal));
    }

    /// Whether the end was dropped.
    pub fn is_released(&self) -> bool {
        self.shared.lock().is_none()
    }
}

impl UpgradeEnd {
    /// The drain signal of the backend: the task should finish when a drain begins, and must finish when
    /// its deadline has passed. Waits until the layer has set it. Never resolves without a layer.
    pub async fn signal(&self) -> DrainSignal {
        let mut signal = self.shared.signal.subscribe();
        let known = signal.wait_for(Option::is_some).await;
        if let Some(signal) = known.ok().and_then(|signal| Option::clone(&signal)) {
            return signal;
        }
        std::future::pending().await
    }

    /// Drops what the guard keeps, as dropping the `UpgradeEnd` does.
    pub fn release(self) {
        drop(self);
    }
}

impl Drop for UpgradeEnd {
    fn drop(&mut self) {
        let guards = self.shared.lock().take();
        drop(guards);
    }
}

impl fmt::Debug for UpgradeGuard {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("UpgradeGuard").field("released", &self.is_released()).finish()
    }
}

impl fmt::Debug for UpgradeEnd {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("UpgradeEnd").finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn guards_are_kept_until_the_end_is_dropped() {
        let (upgrade, end) = UpgradeGuard::pair();
        let guard = Arc::new(());
        upgrade.keep(guard.clone());
        let other = upgrade.clone();
        other.keep(guard.clone());
        drop((upgrade, other));
        assert_eq!(Arc::strong_count(&guard), 3, "dropping the clones releases nothing");
        end.release();
        assert_eq!(Arc::strong_count(&guard), 1);
    }

    #[test]
    fn guard_that_is_added_after_the_end_is_dropped_immediately() {
        let (upgrade, end) = UpgradeGuard::pair();
        drop(end);
        let guard = Arc::new(());
        upgrade.keep(guard.clone());
        assert_eq!(Arc::strong_count(&guard), 1);
    }

    #[test]
    fn destructor_of_a_guard_may_use_the_upgrade_guard() {
        struct Reentrant(UpgradeGuard);
        impl Drop for Reentrant {
            fn drop(&mut self) {
                self.0.keep(());
            }
        }
        let (upgrade, end) = UpgradeGuard::pair();
        upgrade.keep(Reentrant(upgrade.clone()));
        drop(end);
        assert!(upgrade.is_released());
    }
}
