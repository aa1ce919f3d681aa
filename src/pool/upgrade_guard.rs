//! `UpgradeGuard`: what a request occupies stays occupied after its response's body has ended.

use std::{
    any::Any,
    fmt,
    sync::{Arc, Mutex, MutexGuard},
};

use tokio::sync::watch;

use crate::{pool::DrainSignal, util::lock};

/// A backend's word that it goes on working for the session when the response is over, as with an
/// upgraded connection (WebSocket).
///
/// The backend makes a [`pair`](Self::pair), puts the `UpgradeGuard` into the **response's** extensions and
/// gives the [`UpgradeEnd`] to whatever goes on. The layer finds the `UpgradeGuard` and gives it what must live
/// as long: the guard that counts the session as in flight. When the `UpgradeEnd` is dropped the guards
/// are dropped.
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
/// drop(end); // the tunnel ended
/// assert_eq!(std::sync::Arc::strong_count(&in_flight), 1);
/// ```
#[derive(Clone)]
pub struct UpgradeGuard {
    shared: Arc<Shared>,
}

/// The other end of a [`UpgradeGuard`]: when it is dropped, all that the hold keeps is dropped, and what
/// arrives later is dropped at once.
#[must_use = "what the hold keeps is dropped together with its end"]
pub struct UpgradeEnd {
    shared: Arc<Shared>,
}

struct Shared {
    /// `None` once released.
    guards: Mutex<Option<Vec<Box<dyn Any + Send>>>>,
    /// What tells when to end, once the layer has found the upgrade.
    signal: watch::Sender<Option<DrainSignal>>,
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Option<Vec<Box<dyn Any + Send>>>> {
        lock(&self.guards)
    }
}

impl UpgradeGuard {
    /// A hold and its end.
    pub fn pair() -> (Self, UpgradeEnd) {
        let guards = Mutex::new(Some(Vec::new()));
        let shared = Arc::new(Shared { guards, signal: watch::Sender::new(None) });
        (Self { shared: shared.clone() }, UpgradeEnd { shared })
    }

    /// Keeps `guard` until the end; drops it at once if the end is already reached.
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
        // A guard's destructor is foreign code: it never runs under the lock.
        drop(late);
    }

    /// Tells the end of the hold when the backend is being drained.
    pub(crate) fn set_drain_signal(&self, signal: DrainSignal) {
        self.shared.signal.send_replace(Some(signal));
    }

    /// Whether the end is reached.
    pub fn is_released(&self) -> bool {
        self.shared.lock().is_none()
    }
}

impl UpgradeEnd {
    /// Tells when the backend is being drained and when that is over: whatever goes on should come to
    /// an end at the first, and has to at the second. Waits until the layer has found the upgrade, and for
    /// ever if there is no layer.
    pub async fn signal(&self) -> DrainSignal {
        let mut signal = self.shared.signal.subscribe();
        let known = signal.wait_for(Option::is_some).await;
        if let Some(signal) = known.ok().and_then(|signal| Option::clone(&signal)) {
            return signal;
        }
        std::future::pending().await
    }

    /// Drops what the hold keeps, as dropping the `UpgradeEnd` does.
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
    fn guards_live_until_the_end() {
        let (upgrade, end) = UpgradeGuard::pair();
        let guard = Arc::new(());
        upgrade.keep(guard.clone());
        let other = upgrade.clone();
        other.keep(guard.clone());
        drop((upgrade, other));
        assert_eq!(Arc::strong_count(&guard), 3, "dropping the handle releases nothing");
        end.release();
        assert_eq!(Arc::strong_count(&guard), 1);
    }

    #[test]
    fn a_late_guard_is_dropped_at_once() {
        let (upgrade, end) = UpgradeGuard::pair();
        drop(end);
        let guard = Arc::new(());
        upgrade.keep(guard.clone());
        assert_eq!(Arc::strong_count(&guard), 1);
    }

    #[test]
    fn a_guard_may_use_the_hold_in_its_destructor() {
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
