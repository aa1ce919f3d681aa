//! The configuration: the file and the flags, checked, with every default filled in.

mod affinity;
mod application;
mod backends;
mod connection;
mod error;
pub(crate) mod file;
mod health;
mod limits;
mod read;
mod settings;
#[cfg(feature = "tls")]
mod tls;
mod units;
mod upstream;
mod words;

pub(crate) use self::{
    error::Error,
    settings::{Admin, Settings},
    units::Time,
    upstream::Upstream,
    words::{OperatorMode, Otherwise},
};
