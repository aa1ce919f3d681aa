//! An affinity at work: what the dispatch asks of it, and what both say to each other.

use std::{cell::Cell, fmt, time::Duration};

use http::{Extensions, HeaderMap, HeaderValue, Method, Request, Uri};

use super::{Hashing, pending_lookup::PendingLookup, request_state::RequestState};
use crate::{
    id::BackendId,
    outcome::Reason,
    pool::{BackendState, Index},
    token::Pin,
    util::WallClock,
};

/// An affinity at work, for one pool. One that only reads a key, and leaves nothing in requests and
/// responses, says how it reads and hashes, and that it does not remember.
pub trait BoundAffinity: fmt::Debug + Send + Sync + 'static {
    /// Reads what the request carries. When it leaves a [`later`](Look::later) behind, it is asked
    /// again once that has answered.
    fn read(&self, request: &Head<'_>, pool: &mut ReadContext<'_>) -> Reading;

    /// Takes what is ours out of the request. In a chain also without [`read`](Self::read) before
    /// it, when an earlier member had a pin.
    fn strip(&self, _reading: &Reading, _pool: &mut ReadContext<'_>, _headers: &mut HeaderMap) {}

    /// Writes the pin on the response when there is something to write, and settles conflicts with
    /// what the backend wrote. Tells whether a token was issued.
    fn respond(
        &self,
        _commit: &Commit<'_>,
        _notes: &mut RequestState,
        _headers: &mut HeaderMap,
    ) -> bool {
        false
    }

    /// Takes the pin away from the client: the application has ended the session.
    fn forget(&self, _https: bool, _notes: &mut RequestState, _headers: &mut HeaderMap) {}

    /// Whether the pin of a new session is remembered. If not, the key of each request decides.
    fn remembers(&self) -> bool {
        true
    }

    /// What identifies a session that begins now, if that is for us to say.
    fn new_session(&self) -> Option<u64> {
        None
    }

    /// Whether its pins say when their sessions were last seen.
    fn is_dated(&self) -> bool {
        false
    }

    /// For how long it remembers a session that is idle; `None` for ever.
    fn idle_for(&self) -> Option<Duration> {
        None
    }

    /// How the keys of `source` are hashed to backends, where a key decides.
    fn hashing(&self, _source: Origin) -> Option<&Hashing> {
        None
    }

    /// What it carries its tokens in, which nothing else in a chain may use.
    fn carrier(&self) -> Option<String> {
        None
    }

    /// What a node says to its peer `to` when it forwards a request to it.
    fn hop(&self, to: &BackendId) -> Option<HeaderValue> {
        HeaderValue::from_str(to.as_str()).ok()
    }

    /// Whether `value` was said by a peer, to this node or, by a mistake in a list of nodes, to
    /// another one.
    fn is_hop(&self, value: &HeaderValue, pool: &ReadContext<'_>) -> bool {
        pool.index.position_of(value.as_bytes()).is_some()
    }
}

/// The head of a request, whatever its body is: what functions that look at requests are given.
#[derive(Debug, Clone, Copy)]
pub struct Head<'a> {
    pub(crate) method: &'a Method,
    pub(crate) uri: &'a Uri,
    pub(crate) headers: &'a HeaderMap,
    pub(crate) extensions: &'a Extensions,
}

impl<'a> Head<'a> {
    pub(crate) fn of<B>(request: &'a Request<B>) -> Self {
        Self {
            method: request.method(),
            uri: request.uri(),
            headers: request.headers(),
            extensions: request.extensions(),
        }
    }

    /// The method.
    pub fn method(&self) -> &'a Method {
        self.method
    }

    /// The target.
    pub fn uri(&self) -> &'a Uri {
        self.uri
    }

    /// The headers.
    pub fn headers(&self) -> &'a HeaderMap {
        self.headers
    }

    /// The extensions.
    pub fn extensions(&self) -> &'a Extensions {
        self.extensions
    }

    /// The path that the client asked for, also where a router has stripped a part of it.
    pub(crate) fn client_path(&self) -> &'a str {
        #[cfg(feature = "axum")]
        if let Some(original) = self.extensions.get::<axum::extract::OriginalUri>() {
            return original.path();
        }
        self.uri.path()
    }

    /// Whether the client used https, by a trusted word.
    #[inline]
    pub(crate) fn is_https(&self) -> bool {
        let peer = self.extensions.get::<crate::session::Peer>();
        peer.is_some_and(|peer| peer.is_https(self.headers))
    }
}

/// What an affinity may look at besides the request.
#[derive(Debug)]
pub struct ReadContext<'a> {
    pub(crate) index: &'a Index,
    pub(crate) clock: &'a dyn WallClock,
    pub(crate) notes: &'a mut RequestState,
    /// For how many seconds a session must not have been seen to be at rest, if that matters.
    pub(crate) rest: Option<u64>,
    /// What has to be waited for before the request can be read.
    pub(crate) later: Option<PendingLookup>,
    /// What decides while the owner of a key that decides is out.
    pub(crate) second: Option<Second>,
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

/// Who a session is, and in which epoch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct PlannedPin {
    /// What identifies it; `None` when nothing does.
    pub(crate) session: Option<u64>,
    pub(crate) epoch: u64,
}

/// What has become of the pin, once a backend has answered.
#[derive(Debug, Clone, Copy)]
pub struct Commit<'a> {
    pub(crate) change: Change,
    /// The backend that the pin names from now on.
    pub(crate) backend: &'a BackendState,
    /// The pin so far.
    pub(crate) pin: Option<&'a Pin>,
    /// Which member of a chain it came from.
    pub(crate) source: Origin,
    /// The members of a chain whose tokens are to be replaced, a bit each.
    pub(crate) bad: u64,
    /// Whether the client used https, by a trusted word.
    pub(crate) https: bool,
    /// Whether this answer is not to begin a session.
    pub(crate) silent: bool,
    /// Who the session is, should it begin or move now, and in which epoch.
    pub(crate) plan: &'a PlannedPin,
    /// The session that begins with this answer, should one begin; 0 while none has.
    pub(crate) began: &'a Cell<u64>,
    pub(crate) clock: &'a dyn WallClock,
}

/// What is to be written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Change {
    /// Nothing: the client's token stays good as it is.
    Keep,
    /// The same pin, with a later date or under a newer key.
    Refresh,
    /// A new session.
    Assign,
    /// The session goes on elsewhere.
    Move,
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
