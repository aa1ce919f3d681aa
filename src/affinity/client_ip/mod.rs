//! Affinity by the client's address.

mod address;
mod affinity;

pub use self::affinity::{ClientIp, ForwardedBy};
#[cfg(feature = "metrics")]
pub(crate) use self::{address::ClientAddress, affinity::peer_addr};
