//! The application's own session id, remembered on our side.

mod affinity;
mod bound;
mod carrier;

pub use self::affinity::Learned;
