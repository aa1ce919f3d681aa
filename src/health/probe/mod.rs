//! `Probe`: how to ask a backend for a sign of life.

mod body;
mod exchange;
mod grpc;
mod http;
mod traits;

pub(crate) use self::traits::AnyProbe;
pub use self::traits::{NoProbe, Probe};
pub use self::{body::ProbeBody, grpc::GrpcProbe, http::HttpProbe};
