//! Session information for backends, actions of applications, preferences of callers, and the client's
//! connection.

mod action;
pub(crate) mod action_header;
#[cfg(all(feature = "serve", feature = "tls"))]
pub(crate) mod client_cert;
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
