//! `TokenCause`: why a token was written.

use std::fmt;

use crate::util::string_enum::words;

words! {
    /// Why a token was written to a response.
    TokenCause {
        /// A session has begun.
        New = "new",
        /// The session has moved to another backend.
        Moved = "moved",
        /// The token of a session that stays was renewed.
        Refreshed = "refreshed",
    }
}
