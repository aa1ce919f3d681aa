//! What became of a request, why, and by which policy.

#[cfg(feature = "tonic")]
pub(crate) mod grpc_status;
mod policy;
mod verdict;

pub(crate) use self::verdict::Counters;
pub use self::{
    policy::{Busy, Failover, Strict},
    verdict::{Outcome, Reason, Stats, Verdict},
};
