//! Why a save was refused.

use std::{error::Error, fmt};

use tower_sessions_core::session_store;

use crate::id::BackendId;

const PREFIX: &str = "save refused: ";

/// Why a fenced store did not save: nothing was written, and what is stored is newer or somebody
/// else's.
///
/// tower-sessions knows errors of a store as text only. There are three ways to tell: the
/// [`SessionScope`](crate::session_data::SessionScope) layer makes 409 of the 500 with which tower-sessions answers
/// a save that failed; a handler that saves by itself asks [`Scope::refused`](crate::session_data::Scope::refused);
/// and [`of`](Self::of) reads it out of an error.
///
/// # Example
///
/// ```
/// use tower_sessions_core::session_store::Error;
/// use tower_sticky::session_data::Refused;
///
/// let refused = Refused::Older { epoch: 17, kept: 18 };
/// let error = Error::from(refused.clone());
/// assert_eq!(Refused::of(&error), Some(refused));
/// assert_eq!(Refused::of(&Error::Backend("connection refused".into())), None);
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Refused {
    /// The session has moved on: what is stored was used in a later epoch.
    Older {
        /// The epoch of the request.
        epoch: u64,
        /// The epoch of what is stored.
        kept: u64,
    },
    /// In this epoch the session belongs to another backend: it has used it first.
    Held {
        /// That backend.
        owner: BackendId,
    },
    /// Somebody else has saved the session since this request has read it, and it is nobody's: both only
    /// [borrow](crate::Verdict::Borrowed) it, for example.
    Changed,
    /// The session has been deleted, for example by a logout.
    Deleted,
    /// The request has no scope, or one without an epoch, and the session has one.
    Unfenced,
}

impl Refused {
    /// The refusal that is the cause of a store's error.
    pub fn of(error: &session_store::Error) -> Option<Self> {
        let session_store::Error::Backend(text) = error else { return None };
        let why = text.strip_prefix(PREFIX)?;
        if let Some(owner) = why.strip_prefix("in this epoch the session belongs to backend ") {
            return Some(Self::Held { owner: BackendId::new(owner).ok()? });
        }
        if let Some(epochs) = why.strip_prefix("the session has moved on from epoch ") {
            let (epoch, kept) = epochs.split_once(" to ")?;
            return Some(Self::Older { epoch: epoch.parse().ok()?, kept: kept.parse().ok()? });
        }
        [Self::Changed, Self::Deleted, Self::Unfenced]
            .into_iter()
            .find(|refused| refused.to_string() == *text)
    }
}

impl fmt::Display for Refused {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(PREFIX)?;
        match self {
            Self::Older { epoch, kept } => {
                write!(f, "the session has moved on from epoch {epoch} to {kept}")
            }
            Self::Held { owner } => {
                write!(f, "in this epoch the session belongs to backend {owner}")
            }
            Self::Changed => f.write_str("the session has been saved since it was read"),
            Self::Deleted => f.write_str("the session has been deleted"),
            Self::Unfenced => f.write_str("the session has an epoch, and the request has none"),
        }
    }
}

impl Error for Refused {}

impl From<Refused> for session_store::Error {
    fn from(refused: Refused) -> Self {
        Self::Backend(refused.to_string())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refusal_is_read_out_of_its_text() {
        for refused in [
            Refused::Older { epoch: 1, kept: u64::MAX },
            Refused::Held { owner: BackendId::new("a:80").unwrap() },
            Refused::Changed,
            Refused::Deleted,
            Refused::Unfenced,
        ] {
            assert_eq!(Refused::of(&refused.clone().into()), Some(refused));
        }
        for other in ["", "save refused: ", "save refused: no", "the session has been deleted"] {
            assert_eq!(Refused::of(&session_store::Error::Backend(other.into())), None, "{other}");
        }
        assert_eq!(Refused::of(&session_store::Error::Decode(Refused::Deleted.to_string())), None);
    }
}
