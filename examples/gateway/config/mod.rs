//! The configuration: the file and the flags, checked, with every default filled in.

mod access_log;
mod affinity;
mod application;
mod backends;
mod connection;
mod discover;
mod document;
mod error;
pub(crate) mod file;
mod health;
mod limits;
mod listener;
mod listener_tls;
mod probe;
mod read;
mod settings;
mod shown;
#[cfg(feature = "tls")]
mod tls;
mod units;
mod upstream;
mod words;

#[cfg(feature = "dns")]
pub(crate) use self::discover::Discover;
pub(crate) use self::{
    access_log::AccessLog,
    affinity::{KeptSecrets, Stores},
    document::{Document, FILE_CONTENT, section},
    error::Error,
    listener::{ListenerSettings, cannot_listen},
    listener_tls::reload,
    probe::Probe,
    settings::{Admin, Settings, Stopping},
    units::Time,
    upstream::Upstream,
};
