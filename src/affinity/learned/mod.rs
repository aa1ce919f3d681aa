//! The application's own session id, remembered in a store of the gateway.

mod affinity;
mod bound;
mod response_ids;

pub use self::affinity::Learned;
