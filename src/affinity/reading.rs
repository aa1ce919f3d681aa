//! The result of reading a request: its pin or key, and why a token was rejected.

use crate::{outcome::Reason, token::Pin};

/// What a request carries.
#[derive(Debug, Default, Clone, Copy)]
pub struct Reading {
    /// The first valid pin; of two valid pins of one session the one with the higher epoch.
    pub(crate) pin: Option<Pin>,
    /// The position of the pin's backend in the index; `None` when it has left the pool, so that the
    /// pin only identifies the session.
    pub(crate) position: Option<usize>,
    /// A hash of what identifies the session, when there is no pin.
    pub(crate) key: Option<u64>,
    pub(crate) key_role: KeyRole,
    /// Whether the valid pin should be written again.
    pub(crate) refresh: bool,
    /// Whether the session has been idle for longer than the threshold.
    pub(crate) is_idle: bool,
    /// Whether the store failed, and sessions that cannot be looked up are to be rejected.
    pub(crate) unavailable: bool,
    /// Why the first token was rejected, when none was valid.
    pub(crate) reason: Option<Reason>,
    pub(crate) strip: Strip,
    /// The member of a chain that the pin, or else the key, came from.
    pub(crate) origin: Origin,
    /// The members of a chain before the one with the pin whose tokens were rejected, a bit each.
    pub(crate) rejected: u64,
}

/// What the key of a reading does in a chain.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub(crate) enum KeyRole {
    /// It identifies the session.
    #[default]
    Identifies,
    /// It is the first usable value in a chain, so that it routes the request.
    Routes,
    /// It identifies the session, and names the backend at the reading's position.
    NamesBackend,
    /// It routes each request, because no member of the chain before it remembers pins.
    RoutesAlways,
}

/// What must be removed from the request before a backend receives it.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Strip {
    #[default]
    Nothing,
    /// The tokens, and nothing else of their headers.
    Tokens,
    /// The whole header: its only content is one token.
    Header,
    /// The tokens, in the query too.
    TokensAndQuery,
}

impl Reading {
    /// Records a token. Returns whether it is valid.
    #[inline]
    pub(super) fn record(&mut self, token: Result<ValidPin, RejectedToken>) -> bool {
        match token {
            Ok(valid) => self.accept(valid),
            Err(rejected) => self.reject(rejected),
        }
        token.is_ok()
    }

    /// Records a valid plain token. The first one counts, as plain tokens have no epochs. Returns `true`.
    #[inline]
    pub(super) fn accept_plain(&mut self, tag: u64, position: usize) -> bool {
        if self.position.is_none() {
            // Field by field: a pin that is made elsewhere would be copied right after it was written.
            (self.pin, self.position) = (Some(Pin::plain(tag)), Some(position));
            (self.refresh, self.is_idle, self.reason) = (false, false, None);
        }
        true
    }

    /// Records a valid token. After another valid one it counts only when it is of the same session
    /// and has a higher epoch.
    #[inline]
    pub(super) fn accept(&mut self, valid: ValidPin) {
        if self.position.is_some() && !self.is_outdated_by(&valid.pin) {
            return;
        }
        let ValidPin { pin, position, refresh, is_idle } = valid;
        (self.pin, self.position) = (Some(pin), Some(position));
        (self.refresh, self.is_idle, self.reason) = (refresh, is_idle, None);
    }

    /// Whether `other` is of the same session and has a higher epoch.
    #[cold]
    fn is_outdated_by(&self, other: &Pin) -> bool {
        let same = |pin: Pin| pin.session != 0 && pin.session == other.session;
        self.pin.is_some_and(|pin| same(pin) && pin.epoch < other.epoch)
    }

    /// Records a rejected token. The first one counts, unless a token was valid.
    pub(super) fn reject(&mut self, rejected: RejectedToken) {
        if self.position.is_some() {
            return;
        }
        self.pin = self.pin.or(rejected.orphaned);
        self.reason = self.reason.or(Some(rejected.reason));
    }
}

/// A valid token.
#[derive(Debug, Clone, Copy)]
pub(super) struct ValidPin {
    pub(super) pin: Pin,
    /// The position of its backend in the index.
    pub(super) position: usize,
    /// Whether the token should be written again.
    pub(super) refresh: bool,
    /// Whether the session has been idle for longer than the threshold.
    pub(super) is_idle: bool,
}

/// A token that cannot be used.
#[derive(Debug, Clone, Copy)]
pub(super) struct RejectedToken {
    pub(super) reason: Reason,
    /// The pin of a session whose backend has left the pool; the session continues on another one.
    pub(super) orphaned: Option<Pin>,
}

impl From<Reason> for RejectedToken {
    fn from(reason: Reason) -> Self {
        Self { reason, orphaned: None }
    }
}

/// What routes a request while the owner of its first key is out.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Fallback {
    /// A pin to the backend with this tag.
    Pin(u64),
    /// A key, and the member of a chain that it came from.
    Key(u64, Origin),
}

impl Fallback {
    /// The same, for the chain in which the current one is the member at `position`.
    pub(super) fn within(self, position: usize) -> Self {
        match self {
            Self::Pin(_) => self,
            Self::Key(key, origin) => Self::Key(key, origin.within(position)),
        }
    }
}

/// The path to a member of nested chains: one digit for each level, the outermost chain in the lowest
/// digit.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub struct Origin(u32);

impl Origin {
    /// The most members of a chain, which is the base of the digits.
    pub(super) const MAX: usize = 64;

    /// The same member, for the chain in which the current one is the member at `position`.
    pub(super) fn within(self, position: usize) -> Self {
        Self(self.0 * Self::MAX as u32 + position as u32)
    }

    /// The position in the outermost chain, and the path from there.
    pub(super) fn split(self) -> (usize, Self) {
        (self.0 as usize % Self::MAX, Self(self.0 / Self::MAX as u32))
    }
}
