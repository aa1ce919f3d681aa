//! Error types: errors of the configuration, and the errors by which a backend reports what happened to a
//! request.

mod client_error;
mod config;
mod request;
mod shortage;
mod timed_out;
mod unreachable;

pub(crate) use self::unreachable::{
    Redialer, Refusal, SendCount, chain, is_disconnected, redialer,
};
pub use self::{
    client_error::ClientError,
    config::{BoxError, ConfigError},
    request::{NotSent, Unanswered},
    shortage::Shortage,
    timed_out::TimedOut,
    unreachable::{Disconnected, Redial},
};
#[cfg(feature = "proxy")]
pub(crate) use self::{shortage::ShortageError, unreachable::Unreachable};
