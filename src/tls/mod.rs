//! TLS for both sides: PEM files, root certificates, and the reasons of failed handshakes in plain words.

mod pem;
mod provider;

pub(crate) use self::{
    pem::{certificates, private_key},
    provider::provider,
};
