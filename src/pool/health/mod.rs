//! The records of a backend's health: results of probes, evidence from requests, and slow start.

mod access;
mod answer_counts;
mod ejection;
mod evidence;
mod probes;
mod recheck;
mod slow_start;

pub(crate) use self::{
    access::Access,
    answer_counts::AnswerCounts,
    ejection::Ejection,
    evidence::Evidence,
    probes::ProbeState,
    recheck::{Backoff, RecheckId},
    slow_start::SlowStart,
};
