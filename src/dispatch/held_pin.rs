//! The pin of a session that its client holds in a `StickySession`.

use std::sync::{Arc, Mutex, MutexGuard};

use crate::{
    affinity::Reading,
    hash::KeyHasher,
    outcome::{Outcome, Reason},
    pool::{BackendState, Index},
    token::Pin,
    util::lock,
};

/// The pin of one session, shared by all calls of the session.
pub(crate) struct HeldPin {
    session: u64,
    name: Option<Box<str>>,
    state: Mutex<PinState>,
}

/// The pin of a session that its client holds, and the version of it that was read.
pub(super) type Held = (Arc<HeldPin>, u64);

#[derive(Default)]
struct PinState {
    pin: Option<Pin>,
    /// Incremented with every change of the pin.
    version: u64,
    outcome: Option<Outcome>,
}

impl HeldPin {
    /// A session identified by `id`.
    pub(crate) fn new(id: u64) -> Self {
        Self { session: id.max(1), name: None, state: Mutex::default() }
    }

    /// A session identified by its name.
    pub(crate) fn named(name: String) -> Self {
        let session = KeyHasher::default().hash(name.as_bytes()).max(1);
        Self { session, name: Some(name.into()), state: Mutex::default() }
    }

    pub(crate) fn session(&self) -> u64 {
        self.session
    }

    /// The name, if the session has one.
    pub(crate) fn name(&self) -> Option<&str> {
        self.name.as_deref()
    }

    /// The outcome of the last completed call.
    pub(crate) fn outcome(&self) -> Option<Outcome> {
        self.state().outcome.clone()
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
        (reading, state.version)
    }

    /// Pins the session to `backend`, unless the pin has changed since `version`: the first one of
    /// parallel calls decides.
    pub(crate) fn set(&self, backend: &BackendState, version: u64, epoch: u64, millis: u64) {
        let mut state = self.state();
        if state.version != version {
            return;
        }
        let epoch = state.pin.map_or(epoch, |pin| epoch.max(pin.epoch.saturating_add(1)));
        let seen = (millis / 1000) as u32;
        let issued = state.pin.map_or(seen, |pin| pin.issued);
        state.pin = Some(Pin { backend: backend.tag, session: self.session, epoch, issued, seen });
        state.version += 1;
    }

    /// Whether the pin is unchanged since `version`.
    pub(crate) fn is_current(&self, version: u64) -> bool {
        self.state().version == version
    }

    /// Removes the pin, and returns it.
    pub(crate) fn end(&self) -> Option<Pin> {
        let mut state = self.state();
        state.version += 1;
        state.pin.take()
    }

    pub(crate) fn set_outcome(&self, outcome: Outcome) {
        self.state().outcome = Some(outcome);
    }

    fn state(&self) -> MutexGuard<'_, PinState> {
        lock(&self.state)
    }
}
