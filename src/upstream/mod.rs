//! Services to use as backends.

#[cfg(feature = "tonic")]
pub mod grpc;
#[cfg(feature = "proxy")]
pub mod http;
mod reclaim;

pub use self::reclaim::{Reclaim, ReclaimBody, ReclaimFuture};
