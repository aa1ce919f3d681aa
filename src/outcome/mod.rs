//! Outcomes of requests, their reasons and counters, and the failover policies.

#[cfg(feature = "tonic")]
pub(crate) mod grpc_status;
mod policy;
mod sticky_error;
mod verdict;

pub use self::{
    policy::{Busy, Failover, Strict},
    sticky_error::{DrainOver, StickyError},
    verdict::{Outcome, Reason, Stats, Verdict},
};
pub(crate) use self::{sticky_error::ErrorContext, verdict::Counters};
