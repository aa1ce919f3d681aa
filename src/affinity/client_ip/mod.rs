//! Affinity by the client's address.

mod address;
mod affinity;

#[cfg(fuzzing)]
pub(crate) use self::address::Forwarding;
pub use self::affinity::{ClientIp, ForwardedBy};
#[cfg(any(feature = "metrics", fuzzing))]
#[cfg_attr(not(feature = "metrics"), allow(unused_imports, reason = "the fuzzers use a part"))]
pub(crate) use self::{address::ClientAddress, affinity::peer_addr};
