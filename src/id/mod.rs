//! Identifiers of backends and of sessions.

pub(crate) mod backend;
mod session;

pub(crate) use self::backend::MAX_ID_LEN;
pub use self::{
    backend::BackendId,
    session::{SessionHash, SessionId},
};
