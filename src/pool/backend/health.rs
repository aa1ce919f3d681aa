//! The health of a backend: its availability, and the sources that it is derived from.

use std::sync::{MutexGuard, atomic::Ordering::Relaxed};

use super::state::BackendState;
use crate::{
    pool::{
        RecheckId,
        availability::{Availability, HealthSources},
    },
    util::lock,
};

impl BackendState {
    #[inline]
    pub(crate) fn availability(&self) -> Availability {
        match self.standing.availability.load(Relaxed) {
            0 => Availability::Ready,
            1 => Availability::Busy,
            2 => Availability::Suspect,
            _ => Availability::Down,
        }
    }

    /// Whether a good answer from it would change the evidence.
    #[inline]
    pub(crate) fn has_evidence(&self) -> bool {
        self.standing.has_evidence.load(Relaxed)
    }

    /// Whether it is ejected for failing answers, or on trial after that.
    pub(crate) fn is_ejected(&self) -> bool {
        self.standing.is_ejected.load(Relaxed)
    }

    /// Whether it may be given a new session now.
    pub(crate) fn takes_new_sessions(&self) -> bool {
        self.may_take_new_sessions() && self.availability().is_healthy()
    }

    /// The health sources, locked.
    pub(crate) fn sources(&self) -> MutexGuard<'_, HealthSources> {
        lock(&self.sources)
    }

    /// Changes the health sources. Returns the availability before and after if it has changed.
    pub(crate) fn update(
        &self,
        change: impl FnOnce(&mut HealthSources),
    ) -> Option<(Availability, Availability)> {
        let mut sources = self.sources();
        let was_suspect = sources.evidence.is_suspect();
        change(&mut sources);
        if was_suspect && !sources.evidence.is_suspect() {
            self.generation.recovered();
        }
        let availability = sources.availability();
        self.standing.has_evidence.store(!sources.evidence.is_clear(), Relaxed);
        self.standing.is_ejected.store(sources.evidence.ejection.is_ejected(), Relaxed);
        let before = self.availability();
        self.standing.availability.store(availability as u8, Relaxed);
        (before != availability).then_some((before, availability))
    }

    /// Counts a request that watches for changes: see [`Watchers`](super::Watchers).
    pub(crate) fn begin_watch(&self) {
        self.standing.watchers.begin();
    }

    /// The request does not watch any more.
    pub(crate) fn end_watch(&self) {
        self.standing.watchers.end();
    }

    /// Notifies the requests that watch for changes. To be called after
    /// [`Watchers::after_change`](super::Watchers::after_change).
    pub(crate) fn notify_watchers(&self) {
        if self.standing.watchers.any() {
            self.changed.notify_waiters();
        }
    }

    /// Counts a request that waits for the backend to recover.
    pub(crate) fn begin_recovery_wait(&self) {
        self.recovery_waiters.fetch_add(1, Relaxed);
    }

    /// Ends the wait of one such request.
    pub(crate) fn end_recovery_wait(&self) {
        self.recovery_waiters.fetch_sub(1, Relaxed);
    }

    /// Whether requests wait for the backend to recover.
    pub(crate) fn has_recovery_waiters(&self) -> bool {
        self.recovery_waiters.load(Relaxed) > 0
    }

    /// Ends a recheck, and notifies those that wait for its result.
    pub(crate) fn end_recheck(&self, recheck: RecheckId) {
        self.sources().evidence.rechecks.end(recheck);
        self.changed.notify_waiters();
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tokio::time::Instant;

    use super::*;
    use crate::{id::BackendId, pool::Readiness};

    fn backend() -> BackendState {
        BackendState::new(BackendId::new("a").unwrap())
    }

    #[test]
    fn only_a_recovery_makes_earlier_news_of_the_health_outdated() {
        let (backend, now) = (backend(), Instant::now());
        let first = backend.generation();
        let is_current = || backend.generation().has_health_of(first);
        backend.update(|sources| sources.readiness = Readiness::Busy);
        assert!(is_current(), "it was never suspect");
        backend.update(|sources| sources.evidence.ejection.eject(Duration::from_secs(10), now));
        assert!(is_current(), "it has become suspect");
        backend.update(|sources| sources.readiness = Readiness::Ready);
        assert!(is_current(), "it still is");
        backend.update(|sources| sources.evidence.ejection.reinstate(now));
        assert!(!is_current(), "it has recovered");
    }

    #[test]
    fn requests_that_wait_for_the_recovery_are_known_until_the_last_one_ends() {
        let backend = backend();
        assert!(!backend.has_recovery_waiters());
        backend.begin_recovery_wait();
        backend.begin_recovery_wait();
        backend.end_recovery_wait();
        assert!(backend.has_recovery_waiters(), "one of two has ended");
        backend.end_recovery_wait();
        assert!(!backend.has_recovery_waiters());
    }

    #[test]
    fn backend_is_watched_until_the_last_watch_ends() {
        let backend = backend();
        assert!(!backend.standing.watchers.any());
        backend.begin_watch();
        backend.begin_watch();
        backend.end_watch();
        assert!(backend.standing.watchers.any(), "one of two has ended");
        backend.end_watch();
        assert!(!backend.standing.watchers.any(), "a change need not look for waiting requests");
    }
}
