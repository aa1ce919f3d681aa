//! The application's own session id, remembered in a store of the gateway.

mod affinity;
mod bound;
mod carrier;

pub use self::affinity::Learned;
