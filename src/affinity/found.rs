//! `Found`: what an affinity finds in a request, for an explanation.

use std::fmt;

use crate::{outcome::Reason, token::Pin, util::string_enum::words};

words! {
    /// What a request carries that names or identifies a session.
    FindingKind {
        /// A sealed token of this crate.
        SealedToken = "sealed token",
        /// The id of a backend in plain text, which anybody can write.
        PlainToken = "plain token",
        /// A session id of the application, sealed together with the pin.
        Envelope = "envelope",
        /// A session id of the application whose pin is in a store.
        LearnedId = "learned id",
        /// A session id of the application that contains the name of a backend.
        Route = "id with a route",
        /// A key, which is hashed to a backend.
        Key = "key",
        /// The address of the client, which is hashed to a backend.
        ClientAddress = "client address",
    }
}

/// What an affinity finds in a request.
#[derive(Debug, Clone)]
pub struct Found {
    pub(crate) kind: FindingKind,
    /// The cookie, header or parameter of the query that it is in.
    pub(crate) carrier: String,
    pub(crate) pin: Option<Pin>,
    /// The tag of the backend that it names.
    pub(crate) backend: Option<u64>,
    /// Why it is of no use.
    pub(crate) problem: Option<Reason>,
    /// The position in the ring of the key that sealed it.
    pub(crate) key: Option<usize>,
    /// When it was last used, in Unix seconds, if it says so.
    pub(crate) last_used: Option<u64>,
    /// When it ends by the idle timeout and by the absolute timeout, in Unix seconds.
    pub(crate) idle_end: Option<u64>,
    pub(crate) absolute_end: Option<u64>,
}

/// All that an affinity finds in a request.
pub(crate) type Findings = Vec<Found>;

impl Found {
    pub(super) fn new(kind: FindingKind, carrier: impl Into<String>) -> Self {
        Self {
            kind,
            carrier: carrier.into(),
            pin: None,
            backend: None,
            problem: None,
            key: None,
            last_used: None,
            idle_end: None,
            absolute_end: None,
        }
    }
}
