//! TLS from clients.

mod certificates;
mod handshakes;
mod identities;
mod reloads;
mod requests;
mod support;
