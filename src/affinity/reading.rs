//! The result of reading a request: its pin or key, and why a token was rejected.

use crate::{outcome::Reason, token::Pin};

/// What a request carries.
#[derive(Debug, Default, Clone, Copy)]
pub struct Reading {
    /// The first usable pin: authentic and in time; of two of one session that of the later epoch.
    pub(crate) pin: Option<Pin>,
    /// The position of the pin's backend in the index that was looked at; `None` when it has left the
    /// pool, so that the pin only says which session it is.
    pub(crate) position: Option<usize>,
    /// A hash of what identifies the session, when there is no pin.
    pub(crate) key: Option<u64>,
    /// Whether that key is the first usable thing in a chain, and decides.
    pub(crate) decides: bool,
    /// Whether it does so for each request: no member of the chain before it remembers.
    pub(crate) alone: bool,
    /// Whether the pin should be written anew, though it is good.
    pub(crate) refresh: bool,
    /// Whether the session has been at rest for as long as was asked.
    pub(crate) rested: bool,
    /// Whether a session could not be looked up that must not be placed blindly.
    pub(crate) unavailable: bool,
    /// What was wrong with the first token, when none was usable.
    pub(crate) reason: Option<Reason>,
    /// Whether there is something to strip.
    pub(crate) found: bool,
    /// Which member of a chain the pin, or else the key, came from.
    pub(crate) source: Origin,
    /// The members of a chain before the one with the pin whose tokens are of no use, a bit each.
    pub(crate) bad: u64,
    /// Whether the token is all that its header holds, so that the header goes as a whole.
    pub(crate) sole: bool,
}

impl Reading {
    /// Notes a token, and tells whether it is of use.
    #[inline]
    pub(super) fn settle(&mut self, token: Result<ValidPin, RejectedToken>) -> bool {
        match token {
            Ok(usable) => self.accept(usable),
            Err(refused) => self.refuse(refused),
        }
        token.is_ok()
    }

    /// Notes a good token. After another one it counts only for the same session, in a later epoch.
    #[inline]
    pub(super) fn accept(&mut self, usable: ValidPin) {
        if self.position.is_some() && !self.is_outdated_by(&usable.pin) {
            return;
        }
        let ValidPin { pin, position, refresh, rested } = usable;
        (self.pin, self.position) = (Some(pin), Some(position));
        (self.refresh, self.rested, self.reason) = (refresh, rested, None);
    }

    /// Whether the pin is that of the same session in a later epoch.
    #[cold]
    fn is_outdated_by(&self, other: &Pin) -> bool {
        let same = |pin: Pin| pin.session != 0 && pin.session == other.session;
        self.pin.is_some_and(|pin| same(pin) && pin.epoch < other.epoch)
    }

    /// Notes a token that is of no use; the first one is remembered, unless one was good.
    pub(super) fn refuse(&mut self, refused: RejectedToken) {
        if self.position.is_some() {
            return;
        }
        self.pin = self.pin.or(refused.gone);
        self.reason = self.reason.or(Some(refused.reason));
    }
}

/// A good token.
#[derive(Debug, Clone, Copy)]
pub(super) struct ValidPin {
    pub(super) pin: Pin,
    /// Of its backend, in the pool's index.
    pub(super) position: usize,
    /// Whether it should be written anew.
    pub(super) refresh: bool,
    /// Whether the session has been at rest for as long as was asked.
    pub(super) rested: bool,
}

/// A token that is of no use.
#[derive(Debug, Clone, Copy)]
pub(super) struct RejectedToken {
    pub(super) reason: Reason,
    /// The pin of a session whose backend has left the pool: the session goes on elsewhere.
    pub(super) gone: Option<Pin>,
}

impl From<Reason> for RejectedToken {
    fn from(reason: Reason) -> Self {
        Self { reason, gone: None }
    }
}

/// What decides when what came first cannot.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Second {
    /// A pin to the backend with this tag.
    Pin(u64),
    /// A key, and which member of a chain it came from.
    Key(u64, Origin),
}

impl Second {
    /// The same, seen from the chain around the one that it is in.
    pub(super) fn within(self, position: usize) -> Self {
        match self {
            Self::Pin(_) => self,
            Self::Key(key, origin) => Self::Key(key, origin.within(position)),
        }
    }
}

/// A place in a chain, and in the chains within it: a digit each, the outermost last.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub struct Origin(u32);

impl Origin {
    /// The most members of a chain.
    pub(super) const MAX: usize = 64;

    /// The same place, seen from the chain around the one that it is in.
    pub(super) fn within(self, position: usize) -> Self {
        Self(self.0 * Self::MAX as u32 + position as u32)
    }

    /// The member of the outermost chain, and the place within that.
    pub(super) fn split(self) -> (usize, Self) {
        (self.0 as usize % Self::MAX, Self(self.0 / Self::MAX as u32))
    }
}
