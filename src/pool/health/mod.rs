//! What is known of a backend's health: what probes say, what requests have met, and what follows from it.

mod answer_counts;
mod ejection;
mod evidence;
mod looks;
mod probes;
mod slow_start;

pub(crate) use self::{
    answer_counts::AnswerCounts,
    ejection::Ejection,
    evidence::{Access, Evidence},
    looks::{Backoff, LookId},
    probes::ProbeState,
    slow_start::SlowStart,
};
