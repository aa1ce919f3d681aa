//! How a session is recognised, and how its pin is remembered.
//!
//! | method | how it works | its limits |
//! |---|---|---|
//! | [`Cookie::sealed`] | a token in a cookie that nobody can read, forge or use elsewhere | the client must keep cookies |
//! | [`Cookie::plain`] | the backend's id in a cookie | as above; readable, and anyone can choose a backend |

mod cache_control;
#[cfg_attr(not(test), expect(dead_code))]
mod client_address;
mod cookie;
mod cookie_options;
mod scan;
mod set_cookie;

use std::{fmt, sync::Arc};

use http::{Extensions, HeaderMap, HeaderValue, Request};

pub use self::{
    cookie::Cookie,
    cookie_options::{Conflict, SameSite, Secure},
};
use crate::{
    BackendId, ConfigError, Reason,
    backend::{BackendState, Index},
    clock::WallClock,
    token::Pin,
};

/// A way to recognise a session and to remember its pin. The methods that there are stand in this
/// module; the trait is sealed, because what it asks of a method still grows.
pub trait Affinity: sealed::Bind {}

impl<A: sealed::Bind> Affinity for A {}

pub(crate) mod sealed {
    use super::{Arc, BoundAffinity, ConfigError, fmt};

    /// Checks the configuration and makes it ready for one pool.
    pub trait Bind: fmt::Debug + Send + Sync + 'static {
        #[doc(hidden)]
        fn bind(&self, pool: &str) -> Result<Arc<dyn BoundAffinity>, ConfigError>;
    }
}

/// An affinity at work, for one pool.
pub trait BoundAffinity: fmt::Debug + Send + Sync + 'static {
    /// Reads what the request carries.
    fn read(&self, request: &Head<'_>, pool: &Look<'_>) -> Reading;

    /// Takes what is ours out of the request.
    fn strip(&self, reading: &Reading, headers: &mut HeaderMap);

    /// Writes the pin on the response when there is something to write, and settles conflicts with
    /// what the backend wrote. Tells whether a token was issued.
    fn respond(&self, commit: &Commit<'_>, headers: &mut HeaderMap) -> bool;

    /// What a node says to its peer `to` when it forwards a request to it.
    fn hop(&self, to: &BackendId) -> Option<HeaderValue>;

    /// Whether `value` was said by a peer to this node.
    fn is_hop(&self, value: &HeaderValue, here: &BackendId, pool: &Look<'_>) -> bool;
}

/// The head of a request, whatever its body is.
#[derive(Debug)]
pub struct Head<'a> {
    pub(crate) headers: &'a HeaderMap,
    pub(crate) extensions: &'a Extensions,
}

impl<'a> Head<'a> {
    pub(crate) fn of<B>(request: &'a Request<B>) -> Self {
        Self { headers: request.headers(), extensions: request.extensions() }
    }

    /// Whether the client used https, by a trusted word.
    pub(crate) fn is_https(&self) -> bool {
        let peer = self.extensions.get::<crate::Peer>();
        peer.is_some_and(|peer| peer.is_https(self.headers))
    }
}

/// What an affinity may look at besides the request.
#[derive(Debug)]
pub struct Look<'a> {
    pub(crate) index: &'a Index,
    pub(crate) clock: &'a dyn WallClock,
}

/// What a request carries.
#[derive(Debug, Default, Clone, Copy)]
pub struct Reading {
    /// The first usable pin: authentic, in time, and of a backend in the pool.
    pub(crate) pin: Option<Pin>,
    /// The position of the pin's backend in the index that was looked at.
    pub(crate) position: usize,
    /// Whether the pin should be written anew, though it is good.
    pub(crate) refresh: bool,
    /// What was wrong with the first token, when none was usable.
    pub(crate) reason: Option<Reason>,
    /// Whether there is something to strip.
    pub(crate) found: bool,
    /// Whether the token is all that its header holds, so that the header goes as a whole.
    pub(crate) sole: bool,
}

/// What has become of the pin, once a backend has answered.
#[derive(Debug)]
pub struct Commit<'a> {
    pub(crate) change: Change,
    /// The backend that the pin names from now on.
    pub(crate) backend: &'a BackendState,
    /// The pin so far.
    pub(crate) pin: Option<Pin>,
    /// Whether the client used https, by a trusted word.
    pub(crate) https: bool,
    pub(crate) clock: &'a dyn WallClock,
}

/// What is to be written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Change {
    /// Nothing: the client's token stays good as it is.
    Keep,
    /// The same pin, with a later date or under a newer key.
    Refresh,
    /// A new session.
    Assign,
    /// The session goes on elsewhere.
    Move,
}
