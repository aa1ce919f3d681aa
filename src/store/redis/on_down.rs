//! [`OnDown`]: the option for look-ups that Redis does not answer.

/// How requests are handled whose session must be looked up while Redis does not answer.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq, Hash)]
pub enum OnDown {
    /// The session counts as unknown: the other members of a chain decide, or else the rank of the
    /// session's id, which is the same on every gateway and most often the backend that it is on.
    #[default]
    Open,
    /// The request fails with [`StickyError::StoreUnavailable`](crate::StickyError::StoreUnavailable)
    /// (503), unless another member of a chain knows the session. Requests without an id are served.
    Reject,
}
