//! TLS from clients: certificates by server name, client certificates, and new certificates without a restart.

mod builder;
mod certificate;
mod client_ca;
mod counted;
mod handshake;
mod reload;
mod resolver;
mod server_tls;
mod settings;
mod source;
mod subject;

pub use self::{builder::ServerTlsBuilder, server_tls::ServerTls, settings::ClientAuth};
pub(super) use self::{counted::Counted, handshake::accept};
pub use crate::tls::TlsVersion;
