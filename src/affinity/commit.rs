//! What happened to a pin, for an affinity that saves it with the response.

use std::cell::Cell;

use http::StatusCode;

use super::reading::Origin;
use crate::{pool::BackendState, token::Pin, util::WallClock};

/// What happened to the pin, once a backend has answered.
#[derive(Debug, Clone, Copy)]
pub struct Commit<'a> {
    pub(crate) change: Change,
    /// The backend of the pin from now on.
    pub(crate) backend: &'a BackendState,
    /// The pin of the request.
    pub(crate) pin: Option<&'a Pin>,
    /// The member of a chain that the pin came from.
    pub(crate) origin: Origin,
    /// The members of a chain whose tokens are to be replaced, a bit each.
    pub(crate) rejected: u64,
    /// Whether the client used https, as far as its peer is trusted.
    pub(crate) https: bool,
    /// The status of the response.
    pub(crate) status: StatusCode,
    /// Whether this response must not begin a session.
    pub(crate) no_new_session: bool,
    /// The session and epoch of a pin that is assigned or moved now.
    pub(crate) planned: &'a PlannedPin,
    /// Set to the session that begins with this response; 0 when none does.
    pub(crate) new_session: &'a Cell<u64>,
    /// Set when the session of the request ends with this response.
    pub(crate) ended: &'a Cell<bool>,
    pub(crate) clock: &'a dyn WallClock,
}

/// What happens to the pin.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Change {
    /// The client's token stays valid as it is; nothing is written.
    Keep,
    /// The same pin is written again, with the current time or under a newer key.
    Refresh,
    /// A new session begins.
    Assign,
    /// The session continues on another backend.
    Move,
}

/// The session and epoch that a pin is to have.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct PlannedPin {
    /// The identifier of the session; `None` when nothing identifies it.
    pub(crate) session: Option<u64>,
    pub(crate) epoch: u64,
}
