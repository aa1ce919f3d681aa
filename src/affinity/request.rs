//! What an affinity reads from: the head of a request, and the context of the read.

use http::{Extensions, HeaderMap, Method, Request, Uri};

use super::{pending_lookup::PendingLookup, reading::Second, request_state::RequestState};
use crate::{pool::Index, util::WallClock};

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
