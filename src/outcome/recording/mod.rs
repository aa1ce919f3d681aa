//! What is recorded for the feature `metrics`: fixed sets of atomics, without locks or allocations on the way
//! of a pinned request.

mod backend;
mod by_request;
mod histogram;
mod moves;
mod pool;
mod requests;

#[cfg(feature = "redis")]
pub(crate) use self::histogram::SharedHistogram;
pub(crate) use self::{
    backend::{BackendRecorder, Connection, ResponseTimer},
    by_request::{ByRequestTotals, Ending},
    histogram::{BOUNDS, HistogramTotals},
    moves::ByReason,
    pool::{Arrival, DRAIN_ENDS, PoolRecorder, Timestamp},
    requests::Requests,
};
