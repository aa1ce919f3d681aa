//! Who is well: the readiness poll, active probes, and the evidence of requests and connections. One
//! state per backend.

mod active;
mod answers;
mod driver;
mod ejection;
mod evidence;
mod exchange;
mod grpc_probe;
mod http_probe;
mod judge;
mod looks;
mod outlier;
mod probe;
mod probe_body;
mod ramp;
mod redial;
mod settings;
mod watch;

pub(crate) use self::{
    active::Active,
    answers::{Answers, Judged},
    driver::ensure_driven,
    ejection::Ejection,
    evidence::{Access, Evidence},
    judge::{Failure, is_failure, record_failure},
    looks::{LookId, Looks},
    outlier::Window,
    probe::AnyProbe,
    ramp::Ramp,
    settings::Settings,
};
pub use self::{
    grpc_probe::GrpcProbe,
    http_probe::HttpProbe,
    outlier::SuccessRate,
    probe::{NoProbe, Probe},
    probe_body::ProbeBody,
    settings::Health,
};
