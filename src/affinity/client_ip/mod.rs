//! Affinity by the client's address.

mod address;
mod affinity;

pub use self::affinity::{ClientIp, ForwardedBy};
