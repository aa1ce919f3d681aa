//! Outcomes of requests, their reasons and counters, and the failover policies.

#[cfg(feature = "metrics")]
pub(crate) mod canceled;
#[cfg(feature = "tonic")]
pub(crate) mod grpc_status;
#[cfg(not(feature = "metrics"))]
pub(crate) mod no_recording;
mod policy;
#[cfg(feature = "metrics")]
pub(crate) mod recording;
mod status_class;
mod sticky_error;
mod token_cause;
mod verdict;

#[cfg(not(feature = "metrics"))]
pub(crate) use self::no_recording as recording;
pub use self::{
    policy::{Busy, Failover, Strict},
    sticky_error::{DrainOver, StickyError},
    token_cause::TokenCause,
    verdict::{Outcome, Reason, Stats, Verdict},
};
pub(crate) use self::{status_class::StatusClass, sticky_error::ErrorContext, verdict::Counters};
