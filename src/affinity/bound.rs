//! `BoundAffinity`, an affinity with its configuration checked, for one pool.

use std::{fmt, time::Duration};

use http::{HeaderMap, HeaderValue, Uri};

use super::{
    Hashing,
    commit::Commit,
    found::Findings,
    reading::{Origin, Reading},
    request::{Head, ReadContext},
    request_state::RequestState,
    token_codec::TokenCodec,
};
use crate::id::BackendId;

/// An affinity with its configuration checked, for one pool.
///
/// An affinity without state, which only hashes a key of the request, implements
/// [`read`](Self::read) and [`hashing`](Self::hashing).
pub trait BoundAffinity: fmt::Debug + Send + Sync + 'static {
    /// Reads the pin or the key of a request. When it sets [`pending`](ReadContext::pending), it is
    /// called again once that lookup is complete.
    fn read(&self, head: &Head<'_>, cx: &mut ReadContext<'_>) -> Reading;

    /// Reads the request as [`read`](Self::read) does, and adds to `found` what it carries. For an explanation:
    /// it changes nothing, not even the time at which a session was last seen.
    fn inspect(&self, head: &Head<'_>, cx: &mut ReadContext<'_>, found: &mut Findings) -> Reading;

    /// Removes our tokens from the request. A chain calls it also without [`read`](Self::read)
    /// before it, when an earlier member had a pin.
    fn strip(&self, _reading: &Reading, _context: &mut ReadContext<'_>, _headers: &mut HeaderMap) {}

    /// Whether its tokens may be in the query of a request, from which [`strip_query`](Self::strip_query) removes them.
    fn strips_query(&self) -> bool {
        false
    }

    /// The request target without our tokens; `None` if it has none. It is called after [`strip`](Self::strip), when
    /// the reading says so.
    fn strip_query(&self, _uri: &Uri, _context: &mut ReadContext<'_>) -> Option<Uri> {
        None
    }

    /// Saves the pin, in the response or in a store, and resolves conflicts with headers that the
    /// backend wrote. Returns whether a token was issued.
    fn save(&self, _: &Commit<'_>, _: &mut RequestState, _headers: &mut HeaderMap) -> bool {
        false
    }

    /// Whether [`save`](Self::save) does nothing for a pin that is kept, if no token was rejected and the response
    /// has these headers. Then it need not be called.
    fn saves_nothing(&self, _headers: &HeaderMap) -> bool {
        false
    }

    /// Removes the pin, because the session has ended.
    fn clear(&self, _https: bool, _state: &mut RequestState, _headers: &mut HeaderMap) {}

    /// Whether the pin of a new session is remembered. If not, each request is routed by its key, as with
    /// an affinity that hashes keys.
    fn remembers(&self) -> bool {
        self.hashing(Origin::default()).is_none()
    }

    /// The codec of its tokens, for an affinity that issues tokens.
    fn tokens(&self) -> Option<&TokenCodec> {
        None
    }

    /// The identifier for a new session, for an affinity that issues tokens with one.
    fn new_session(&self) -> Option<u64> {
        self.tokens()?.new_session()
    }

    /// Whether its tokens are sealed, with the times when their sessions began and were last seen.
    fn is_sealed(&self) -> bool {
        self.tokens().is_some_and(TokenCodec::is_sealed)
    }

    /// How long an idle session is remembered; `None` without a limit.
    fn idle_timeout(&self) -> Option<Duration> {
        self.tokens()?.idle_timeout()
    }

    /// The route of a backend, for an affinity whose ids contain one.
    fn route(&self, _tag: u64, _id: &BackendId) -> Option<String> {
        None
    }

    /// How the keys from `origin` are hashed to backends, for an affinity that routes by key.
    fn hashing(&self, _origin: Origin) -> Option<&Hashing> {
        None
    }

    /// The cookie or header of its tokens, which no other member of a chain may use.
    fn carrier(&self) -> Option<String> {
        None
    }

    /// The value with which a node marks a request that it forwards to its peer `to`.
    fn peer_token(&self, to: &BackendId) -> Option<HeaderValue> {
        match self.tokens() {
            Some(tokens) => HeaderValue::try_from(tokens.peer_token(to)?).ok(),
            None => HeaderValue::from_str(to.as_str()).ok(),
        }
    }

    /// Whether a peer made `value`, for this node or, when the lists of nodes differ, for another one.
    fn is_peer_token(&self, value: &HeaderValue, cx: &ReadContext<'_>) -> bool {
        match self.tokens() {
            Some(tokens) => tokens.is_peer_token(value.as_bytes(), cx),
            None => cx.index.position_of(value.as_bytes()).is_some(),
        }
    }
}
