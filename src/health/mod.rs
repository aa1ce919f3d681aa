//! Who is alive: the readiness poll, active probes and what real traffic tells, one state per
//! backend.

mod active;
mod driver;
mod exchange;
mod grpc_probe;
mod http_probe;
mod judge;
mod outlier;
mod passive;
mod probe;
mod probe_body;
mod ramp;
mod settings;
mod watch;

pub(crate) use self::{
    active::Active,
    driver::ensure_driven,
    judge::{blame, is_failure},
    outlier::Window,
    passive::{Passive, Trouble},
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
