//! The configuration: the file and the flags, checked, with every default filled in.

mod affinity;
mod application;
mod backends;
mod error;
pub(crate) mod file;
mod health;
mod limits;
mod listener;
mod listener_tls;
mod read;
mod settings;
mod units;
mod upstream;
mod words;

pub(crate) use self::{
    error::Error,
    listener::{ListenerSettings, cannot_listen},
    listener_tls::reload,
    settings::{Admin, Settings},
    units::Time,
    upstream::Upstream,
    words::{OperatorMode, Otherwise},
};
