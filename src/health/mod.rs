//! Health checks: the readiness poll, active probes, passive detection by requests and connections, and
//! redials. They share one state per backend.

mod answers;
mod driver;
mod passive;
mod probe;
mod probe_tasks;
mod redial;
mod settings;
mod success_rate;

pub(crate) use self::{
    answers::{Answers, Judged},
    driver::Driver,
    passive::{Failure, is_failure, record_failure},
    probe::AnyProbe,
    settings::Settings,
};
pub use self::{
    probe::{GrpcProbe, HttpProbe, NoProbe, Probe, ProbeBody},
    settings::Health,
    success_rate::SuccessRate,
};
