//! Active probes: the `Probe` trait, and probes by HTTP and gRPC.

mod body;
mod exchange;
mod grpc;
mod http;
mod statuses;
mod traits;

pub(crate) use self::traits::AnyProbe;
pub use self::traits::{NoProbe, Probe};
pub use self::{body::ProbeBody, grpc::GrpcProbe, http::HttpProbe};
