//! [`Refused`]: why a fenced store has refused a save.

use std::{error::Error, fmt};

use tower_sessions_core::session_store;

use crate::id::BackendId;

const PREFIX: &str = "save refused: ";

/// Why a fenced store has refused a save. Nothing was written: the stored data is newer, or belongs to
/// another backend.
///
/// The errors of tower-sessions contain this only as text. There are three ways to detect it: the
/// [`SessionScope`](crate::session_data::SessionScope) layer changes the 500 of tower-sessions to 409, a
/// handler that saves by itself can call [`Scope::refused`](crate::session_data::Scope::refused), and
/// [`of`](Self::of) parses it from an error.
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
    /// The session has moved: the stored data was used in a later epoch.
    Older {
        /// The epoch of the request.
        epoch: u64,
        /// The epoch of the stored data.
        kept: u64,
    },
    /// Another backend owns the session in this epoch, because it was the first to use it.
    Held {
        /// The backend that owns the session.
        owner: BackendId,
    },
    /// The session has no owner, and was saved since this request has read it. For example, two backends
    /// have [borrowed](crate::Verdict::Borrowed) it at the same time.
    Changed,
    /// The session has been deleted, for example by a logout.
    Deleted,
    /// The request has no scope or no epoch, and the session has an epoch.
    Unfenced,
}

impl Refused {
    /// Parses the error of a store. `None` if it is not a refusal.
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
    fn refusals_are_parsed_from_their_text() {
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
