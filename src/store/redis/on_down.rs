//! What becomes of sessions that cannot be looked up.

/// What becomes of a session that must be looked up while Redis does not answer.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq, Hash)]
pub enum OnDown {
    /// The rest of a chain decides, else the rank of the session's id, which is the same on every
    /// gateway and most often where the session is.
    #[default]
    Open,
    /// The request fails with [`StickyError::StoreUnavailable`](crate::StickyError::StoreUnavailable)
    /// (503), unless another member of a chain knows the session. Requests without an id do not.
    Reject,
}
