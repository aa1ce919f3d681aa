//! `Pin`: the backend of a session, with its epoch and timestamps.

/// The backend of a session, its epoch, and when it began and was last seen.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Pin {
    /// The tag of the backend's id.
    pub(crate) backend: u64,
    /// The random identifier of the session, which stays the same when it moves; 0 in a plain token.
    pub(crate) session: u64,
    /// Grows when the session moves, to the Unix time in milliseconds, or by one if that is greater.
    pub(crate) epoch: u64,
    /// When the session began, in Unix seconds.
    pub(crate) issued: u32,
    /// When the token was last sealed, in Unix seconds.
    pub(crate) seen: u32,
}

impl Pin {
    /// The pin of a plain token, which has only the backend.
    pub(crate) const fn plain(backend: u64) -> Self {
        Self { backend, session: 0, epoch: 0, issued: 0, seen: 0 }
    }

    /// The identifier of the session; `None` for a plain token.
    pub(crate) fn session(&self) -> Option<u64> {
        (self.session != 0).then_some(self.session)
    }
}
