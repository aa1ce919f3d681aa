//! `BoundAffinity`, an affinity with its configuration checked, for one pool.

use std::{fmt, time::Duration};

use http::{HeaderMap, HeaderValue};

use super::{
    Hashing,
    commit::Commit,
    reading::{Origin, Reading},
    request::{Head, ReadContext},
    request_state::RequestState,
};
use crate::id::BackendId;

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
