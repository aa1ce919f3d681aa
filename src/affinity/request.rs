//! What an affinity reads from: the head of a request, and the context of the read.

use http::{Extensions, HeaderMap, Method, Request, Uri};

use super::{pending_lookup::PendingLookup, reading::Fallback, request_state::RequestState};
use crate::{pool::Index, util::WallClock};

/// The head of a request, without the type of its body: the argument of functions that inspect
/// requests.
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

    /// The request target.
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

    /// The path that the client requested, also when a router has stripped a prefix of it.
    pub(crate) fn client_path(&self) -> &'a str {
        #[cfg(feature = "axum")]
        if let Some(original) = self.extensions.get::<axum::extract::OriginalUri>() {
            return original.path();
        }
        self.uri.path()
    }

    /// Whether the client used https, as far as its [`Peer`](crate::session::Peer) is trusted.
    #[inline]
    pub(crate) fn is_https(&self) -> bool {
        let peer = self.extensions.get::<crate::session::Peer>();
        peer.is_some_and(|peer| peer.is_https(self.headers))
    }
}

/// What an affinity uses besides the request, and what it leaves for the dispatch.
#[derive(Debug)]
pub struct ReadContext<'a> {
    pub(crate) index: &'a Index,
    pub(crate) clock: &'a dyn WallClock,
    pub(crate) state: &'a mut RequestState,
    /// The idle time in seconds after which a session may be moved to balance the load, when that is
    /// enabled.
    pub(crate) idle_threshold: Option<u64>,
    /// A lookup that must be complete before the request can be read.
    pub(crate) pending: Option<PendingLookup>,
    /// What routes the request while the owner of the key that decides is out.
    pub(crate) fallback: Option<Fallback>,
}
