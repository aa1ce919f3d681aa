//! The application's own session id, sealed together with the pin.

mod affinity;
mod bound;
mod carrier;
mod query;

pub use self::affinity::Envelope;
