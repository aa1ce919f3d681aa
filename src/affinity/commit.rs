//! What happened to a pin, for an affinity that writes it to the response.

use std::cell::Cell;

use super::reading::Origin;
use crate::{pool::BackendState, token::Pin, util::WallClock};

/// What has become of the pin, once a backend has answered.
#[derive(Debug, Clone, Copy)]
pub struct Commit<'a> {
    pub(crate) change: Change,
    /// The backend that the pin names from now on.
    pub(crate) backend: &'a BackendState,
    /// The pin so far.
    pub(crate) pin: Option<&'a Pin>,
    /// Which member of a chain it came from.
    pub(crate) source: Origin,
    /// The members of a chain whose tokens are to be replaced, a bit each.
    pub(crate) bad: u64,
    /// Whether the client used https, by a trusted word.
    pub(crate) https: bool,
    /// Whether this answer is not to begin a session.
    pub(crate) silent: bool,
    /// Who the session is, should it begin or move now, and in which epoch.
    pub(crate) plan: &'a PlannedPin,
    /// The session that begins with this answer, should one begin; 0 while none has.
    pub(crate) began: &'a Cell<u64>,
    pub(crate) clock: &'a dyn WallClock,
}

/// What is to be written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Change {
    /// Nothing: the client's token stays good as it is.
    Keep,
    /// The same pin, with a later date or under a newer key.
    Refresh,
    /// A new session.
    Assign,
    /// The session goes on elsewhere.
    Move,
}

/// Who a session is, and in which epoch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct PlannedPin {
    /// What identifies it; `None` when nothing does.
    pub(crate) session: Option<u64>,
    pub(crate) epoch: u64,
}
