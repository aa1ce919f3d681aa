//! What affinities keep about a request until its response has ended.

use std::fmt;

use crate::{
    store::{Answer, OpenSession, SessionKey, StoredPin},
    token::EnvelopePayload,
};

/// The state of one request: a list of entries, without an allocation while it is empty, as for a
/// request with a token.
///
/// It is dropped when the body of the response has ended, so [`OpenSession`] guards in it last until
/// then.
#[derive(Default)]
pub struct RequestState(Option<Box<Node>>);

struct Node {
    key: AffinityKey,
    entry: StateEntry,
    next: RequestState,
}

/// The affinity of a chain that an entry belongs to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct AffinityKey(usize);

pub(crate) enum StateEntry {
    /// The envelope of the request; `None` when no envelope was valid.
    Envelope(Option<OpenedEnvelope>),
    /// The learned session of the request.
    Learned(LearnedSession),
    /// The path of a request without a learned id, for references in its response.
    Path(Box<str>),
    /// The request is outside of the cookie's path.
    OutsidePath,
    /// The result of a lookup in the store.
    Lookup(SessionKey, Answer),
}

/// The envelope whose session the request continues.
#[derive(Debug)]
pub(crate) struct OpenedEnvelope {
    pub(super) payload: EnvelopePayload,
    pub(super) place: Place,
}

/// Where a request has an envelope.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Place {
    /// Its position among the values of its cookie or header name.
    Carrier(usize),
    /// Its position among the values of the query parameter.
    Query(usize),
}

/// A session of the store.
#[derive(Debug)]
pub(crate) struct LearnedSession {
    pub(super) key: SessionKey,
    /// Its pin, when the store has one.
    pub(super) pin: Option<StoredPin>,
    /// Whether the session of that pin has reached the absolute timeout.
    pub(super) expired: bool,
    /// Whether the session ends if the request succeeds.
    pub(super) ends: bool,
    pub(super) _open: Option<OpenSession>,
}

impl AffinityKey {
    /// The address of the affinity, which is unique because each one is behind an `Arc`.
    pub(super) fn new<A>(affinity: &A) -> Self {
        Self(std::ptr::from_ref(affinity).addr())
    }
}

impl RequestState {
    pub(crate) fn push(&mut self, key: AffinityKey, entry: StateEntry) {
        let next = Self(self.0.take());
        self.0 = Some(Box::new(Node { key, entry, next }));
    }

    #[inline]
    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_none()
    }

    /// The newest entry of an affinity for which `pick` returns a value.
    pub(super) fn find<'a, T>(
        &'a self,
        key: AffinityKey,
        pick: impl Fn(&'a StateEntry) -> Option<T>,
    ) -> Option<T> {
        let mut next = self.0.as_deref();
        while let Some(node) = next {
            if node.key == key
                && let Some(found) = pick(&node.entry)
            {
                return Some(found);
            }
            next = node.next.0.as_deref();
        }
        None
    }

    /// As [`find`](Self::find), with mutable access.
    pub(super) fn find_mut<'a, T>(
        &'a mut self,
        key: AffinityKey,
        pick: impl Fn(&'a mut StateEntry) -> Option<T>,
    ) -> Option<T> {
        let mut next = self.0.as_deref_mut();
        while let Some(node) = next {
            if node.key == key
                && let Some(found) = pick(&mut node.entry)
            {
                return Some(found);
            }
            next = node.next.0.as_deref_mut();
        }
        None
    }
}

impl fmt::Debug for RequestState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Session ids are secrets, so the entries are not shown.
        f.debug_struct("RequestState").field("empty", &self.0.is_none()).finish()
    }
}
