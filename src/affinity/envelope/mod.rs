//! The application's own session id, sealed together with the pin.

mod affinity;
mod carrier;

pub use self::affinity::Envelope;
