//! What affinities note about a request for when its answer comes.

use std::fmt;

use crate::{
    store::{Answer, OpenSession, SessionKey, StoredPin},
    token::EnvelopePayload,
};

/// The notes of one request: none on the way of a request with a token, which needs none.
///
/// They are dropped when the response's body has ended, so that what they hold open stays open until
/// then.
#[derive(Default)]
pub struct RequestState(Option<Box<Entry>>);

struct Entry {
    author: AffinityKey,
    note: StateEntry,
    next: RequestState,
}

/// Which affinity of a chain a note belongs to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct AffinityKey(usize);

pub(crate) enum StateEntry {
    /// The application's id as its envelope had it; `None` when no envelope was usable.
    Opened(Option<Opened>),
    /// The application's id as the table knows it.
    Known(Known),
    /// The request is outside of the cookie's path.
    Outside,
    /// What a store answered that takes its time.
    Answered(SessionKey, Answer),
}

/// The envelope that a request's session goes on with.
#[derive(Debug)]
pub(crate) struct Opened {
    pub(super) letter: EnvelopePayload,
    /// Where it was among the values of this name.
    pub(super) nth: usize,
}

/// What is known of the session of a request.
#[derive(Debug)]
pub(crate) struct Known {
    pub(super) key: SessionKey,
    /// Its pin, if the table has one.
    pub(super) pin: Option<StoredPin>,
    /// Whether that is of a session which has ended because of its age.
    pub(super) over: bool,
    pub(super) _open: Option<OpenSession>,
}

impl AffinityKey {
    /// The affinity that lives here. It is behind an `Arc`, so no other one has its address.
    pub(super) fn new<A>(affinity: &A) -> Self {
        Self(std::ptr::from_ref(affinity).addr())
    }
}

impl RequestState {
    pub(crate) fn push(&mut self, author: AffinityKey, note: StateEntry) {
        let next = Self(self.0.take());
        self.0 = Some(Box::new(Entry { author, note, next }));
    }

    #[inline]
    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_none()
    }

    /// The first of an affinity's notes that `pick` accepts, newest first.
    pub(super) fn find<'a, T>(
        &'a self,
        author: AffinityKey,
        pick: impl Fn(&'a StateEntry) -> Option<T>,
    ) -> Option<T> {
        let mut next = self.0.as_deref();
        while let Some(entry) = next {
            if entry.author == author
                && let Some(found) = pick(&entry.note)
            {
                return Some(found);
            }
            next = entry.next.0.as_deref();
        }
        None
    }

    /// As [`find`](Self::find), to change it.
    pub(super) fn find_mut<'a, T>(
        &'a mut self,
        author: AffinityKey,
        pick: impl Fn(&'a mut StateEntry) -> Option<T>,
    ) -> Option<T> {
        let mut next = self.0.as_deref_mut();
        while let Some(entry) = next {
            if entry.author == author
                && let Some(found) = pick(&mut entry.note)
            {
                return Some(found);
            }
            next = entry.next.0.as_deref_mut();
        }
        None
    }
}

impl fmt::Debug for RequestState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Ids of sessions are secrets.
        f.debug_struct("Notes").field("any", &self.0.is_some()).finish()
    }
}
