//! The pin of a session that its client holds in a `StickySession`.

use std::sync::{
    Arc, Mutex, MutexGuard,
    atomic::{
        AtomicU64,
        Ordering::{Acquire, Release},
    },
};

use crate::{
    affinity::Reading,
    hash::KeyHasher,
    id::{BackendId, SessionHash},
    outcome::{Outcome, Reason},
    pool::{BackendState, Index},
    token::Pin,
    util::lock,
};

/// The pin of one session, shared by all calls of the session.
pub(crate) struct HeldPin {
    session: u64,
    name: Option<Box<str>>,
    /// Incremented with every change of the pin, under the lock of `state`. Read without it.
    version: AtomicU64,
    /// One more than the version of the pin that the last call has followed, if its outcome says no more than that;
    /// else 0. Changed under the lock of `state`. Read without it.
    followed: AtomicU64,
    state: Mutex<PinState>,
}

/// The pin of a session that its client holds, and the version of it that was read.
pub(super) type Held = (Arc<HeldPin>, u64);

#[derive(Default)]
struct PinState {
    pin: Option<Pin>,
    last: Option<LastCall>,
}

/// The last completed call of a session.
struct LastCall {
    /// Its outcome, without the hash of the session.
    outcome: Outcome,
    has_session: bool,
}

impl HeldPin {
    /// A session identified by `id`.
    pub(crate) fn new(id: u64) -> Self {
        Self {
            session: id.max(1),
            name: None,
            version: AtomicU64::new(0),
            followed: AtomicU64::new(0),
            state: Mutex::default(),
        }
    }

    /// A session identified by its name.
    pub(crate) fn named(name: String) -> Self {
        let session = KeyHasher::default().hash(name.as_bytes()).max(1);
        Self { name: Some(name.into()), ..Self::new(session) }
    }

    pub(crate) fn session(&self) -> u64 {
        self.session
    }

    /// The name, if the session has one.
    pub(crate) fn name(&self) -> Option<&str> {
        self.name.as_deref()
    }

    /// The outcome of the last completed call. `hash` hashes the session: each call would pay for it otherwise.
    pub(crate) fn outcome(&self, hash: impl FnOnce(u64) -> SessionHash) -> Option<Outcome> {
        let state = self.state();
        let last = state.last.as_ref()?;
        let mut outcome = last.outcome.clone();
        outcome.session = last.has_session.then(|| hash(self.session));
        Some(outcome)
    }

    /// Whether the first backend is the first in rank for the name, instead of the strategy's choice.
    pub(crate) fn has_name(&self) -> bool {
        self.name.is_some()
    }

    /// The tag of the backend that the session is pinned to.
    pub(crate) fn backend(&self) -> Option<u64> {
        self.state().pin.map(|pin| pin.backend)
    }

    /// The pin as an affinity would read it, and its version.
    pub(crate) fn read(&self, index: &Index) -> (Reading, u64) {
        let state = self.state();
        let position = state.pin.and_then(|pin| index.position(pin.backend));
        let is_orphaned = state.pin.is_some() && position.is_none();
        let reading = Reading {
            pin: state.pin,
            position,
            key: Some(self.session),
            reason: is_orphaned.then_some(Reason::Unknown),
            ..Reading::default()
        };
        (reading, self.version.load(Acquire))
    }

    /// Pins the session to `backend`, unless the pin has changed since `version`: the first one of
    /// parallel calls decides.
    pub(crate) fn set(&self, backend: &BackendState, version: u64, epoch: u64, millis: u64) {
        let mut state = self.state();
        if !self.is_current(version) {
            return;
        }
        let epoch = state.pin.map_or(epoch, |pin| epoch.max(pin.epoch.saturating_add(1)));
        let seen = (millis / 1000) as u32;
        let issued = state.pin.map_or(seen, |pin| pin.issued);
        state.pin = Some(Pin { backend: backend.tag, session: self.session, epoch, issued, seen });
        self.version.fetch_add(1, Release);
    }

    /// Whether the pin is unchanged since `version`.
    pub(crate) fn is_current(&self, version: u64) -> bool {
        self.version.load(Acquire) == version
    }

    /// Removes the pin, and returns it.
    pub(crate) fn end(&self) -> Option<Pin> {
        let mut state = self.state();
        self.version.fetch_add(1, Release);
        state.pin.take()
    }

    /// Whether the last call has followed the pin of this version, and its outcome says no more than that.
    #[inline]
    pub(crate) fn has_followed(&self, version: u64) -> bool {
        self.followed.load(Acquire) == version + 1
    }

    /// Records the outcome of a call, given without its backend and session. `followed`: the version of the pin
    /// that decides the whole outcome, if one does.
    pub(crate) fn set_outcome(
        &self,
        mut outcome: Outcome,
        backend: Option<&BackendId>,
        has_session: bool,
        followed: Option<u64>,
    ) {
        let mut state = self.state();
        self.followed.store(followed.map_or(0, |version| version + 1), Release);
        let last = &mut state.last;
        // The backend of most calls is that of the call before, whose id need not be cloned again.
        let known = last.as_mut().and_then(|last| last.outcome.backend.take());
        outcome.backend = match known {
            Some(known) if backend == Some(&known) => Some(known),
            _ => backend.cloned(),
        };
        *last = Some(LastCall { outcome, has_session });
    }

    fn state(&self) -> MutexGuard<'_, PinState> {
        lock(&self.state)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::strategy::testing::states;

    #[test]
    fn a_session_that_moves_keeps_the_time_of_its_first_pin() {
        let (states, held) = (states(&[1, 1]), HeldPin::new(7));
        held.set(&states[0], 0, 0, 5_000);
        held.set(&states[1], 1, 0, 61_999);
        held.set(&states[0], 1, 0, 70_000);
        let pin = held.state().pin.unwrap();
        assert_eq!((pin.issued, pin.seen), (5, 61), "in seconds");
        assert_eq!(pin.backend, states[1].tag, "the pin has changed since version 1");
    }
}
