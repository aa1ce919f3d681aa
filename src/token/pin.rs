//! `Pin`: where a session is.

/// What a token says: which backend, and the life of the session so far.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Pin {
    /// The tag of the backend's id.
    pub(crate) backend: u64,
    /// 64 bits by chance that stay with the session through every move; 0 in a plain token.
    pub(crate) session: u64,
    /// Grows with every move: the greater of one more and the Unix time in milliseconds.
    pub(crate) epoch: u64,
    /// When the session began, in seconds since the Unix epoch. Never changes.
    pub(crate) issued: u32,
    /// When the token was last sealed, in the same unit.
    pub(crate) seen: u32,
}

impl Pin {
    /// The pin of a plain token: it says nothing but where.
    pub(crate) const fn plain(backend: u64) -> Self {
        Self { backend, session: 0, epoch: 0, issued: 0, seen: 0 }
    }

    /// What identifies the session on every gateway, if the token has that.
    pub(crate) fn session(&self) -> Option<u64> {
        (self.session != 0).then_some(self.session)
    }
}
