//! Who is well: the readiness poll, active probes, and the evidence of requests and connections. One
//! state per backend.

mod active;
mod answers;
mod driver;
mod ejection;
mod evidence;
mod looks;
mod passive;
mod probe;
mod probe_tasks;
mod redial;
mod settings;
mod slow_start;
mod success_rate;

pub(crate) use self::{
    active::Active,
    answers::{Answers, Judged},
    driver::ensure_driven,
    ejection::Ejection,
    evidence::{Access, Evidence},
    looks::{LookId, Looks},
    passive::{Failure, is_failure, record_failure},
    probe::AnyProbe,
    settings::Settings,
    slow_start::Ramp,
    success_rate::Window,
};
pub use self::{
    probe::{GrpcProbe, HttpProbe, NoProbe, Probe, ProbeBody},
    settings::Health,
    success_rate::SuccessRate,
};
