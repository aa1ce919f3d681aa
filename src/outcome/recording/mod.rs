//! What is recorded for the feature `metrics`: fixed sets of atomics, without locks or allocations on the way
//! of a pinned request.

mod backend;
mod histogram;
mod moves;
mod pool;
mod requests;
mod shard_owners;
mod shards;

pub(crate) use self::{
    backend::{BackendRecorder, Connection, ResponseTimer},
    histogram::{BOUNDS, HistogramTotals},
    moves::ByReason,
    pool::{DRAIN_ENDS, PoolRecorder, Timestamp},
    requests::Requests,
};
