//! The pin of a session that its client holds.

use std::sync::{Arc, Mutex, MutexGuard};

use crate::{
    affinity::Reading,
    hash::KeyHasher,
    outcome::{Outcome, Reason},
    pool::{BackendState, Index},
    token::Pin,
    util::lock,
};

/// What a session remembers.
pub(crate) struct HeldPin {
    session: u64,
    name: Option<Box<str>>,
    kept: Mutex<Kept>,
}

/// The pin of a session that its client holds, and the version of it that was read.
pub(super) type Held = (Arc<HeldPin>, u64);

#[derive(Default)]
struct Kept {
    pin: Option<Pin>,
    /// Grows with every change of the pin.
    version: u64,
    outcome: Option<Outcome>,
}

impl HeldPin {
    /// A session identified by `id`.
    pub(crate) fn new(id: u64) -> Self {
        Self { session: id.max(1), name: None, kept: Mutex::default() }
    }

    /// A session identified by its name.
    pub(crate) fn named(name: String) -> Self {
        let session = KeyHasher::default().hash(name.as_bytes()).max(1);
        Self { session, name: Some(name.into()), kept: Mutex::default() }
    }

    pub(crate) fn session(&self) -> u64 {
        self.session
    }

    /// Its name, if it has one.
    pub(crate) fn name(&self) -> Option<&str> {
        self.name.as_deref()
    }

    /// What became of the call that was answered last.
    pub(crate) fn outcome(&self) -> Option<Outcome> {
        self.kept().outcome.clone()
    }

    /// Whether its first backend is the one that its name ranks first, and not the strategy's choice.
    pub(crate) fn has_name(&self) -> bool {
        self.name.is_some()
    }

    /// The tag of the backend where the session is.
    pub(crate) fn home(&self) -> Option<u64> {
        self.kept().pin.map(|pin| pin.backend)
    }

    /// Where the session is, and the version of that.
    pub(crate) fn read(&self, index: &Index) -> (Reading, u64) {
        let kept = self.kept();
        let position = kept.pin.and_then(|pin| index.position(pin.backend));
        let gone = kept.pin.is_some() && position.is_none();
        let reading = Reading {
            pin: kept.pin,
            position,
            key: Some(self.session),
            reason: gone.then_some(Reason::Unknown),
            ..Reading::default()
        };
        (reading, kept.version)
    }

    /// The session is with `backend` from now on, unless something has changed since `version`: of
    /// parallel calls the first one decides.
    pub(crate) fn pin(&self, backend: &BackendState, version: u64, epoch: u64, millis: u64) {
        let mut kept = self.kept();
        if kept.version != version {
            return;
        }
        let epoch = kept.pin.map_or(epoch, |pin| epoch.max(pin.epoch.saturating_add(1)));
        let seen = (millis / 1000) as u32;
        let issued = kept.pin.map_or(seen, |pin| pin.issued);
        kept.pin = Some(Pin { backend: backend.tag, session: self.session, epoch, issued, seen });
        kept.version += 1;
    }

    /// Whether it is still where it was at `version`, and has not ended.
    pub(crate) fn is_at(&self, version: u64) -> bool {
        self.kept().version == version
    }

    /// Forgets where it is, and tells where it was.
    pub(crate) fn end(&self) -> Option<Pin> {
        let mut kept = self.kept();
        kept.version += 1;
        kept.pin.take()
    }

    pub(crate) fn ended_with(&self, outcome: Outcome) {
        self.kept().outcome = Some(outcome);
    }

    fn kept(&self) -> MutexGuard<'_, Kept> {
        lock(&self.kept)
    }
}
