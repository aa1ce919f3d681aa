//! What is said of a session: to its backend, by the application, by the caller, and who the client is.

mod action;
pub(crate) mod action_header;
pub(crate) mod info;
mod peer;
#[cfg(feature = "proxy")]
pub(crate) mod peer_headers;

pub(crate) use self::action_header::ActionHeader;
pub use self::{
    action::{Preference, SessionAction},
    info::SessionInfo,
    peer::Peer,
};
