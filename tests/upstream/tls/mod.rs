//! Backends over TLS.

mod protocols;
mod requests;
mod support;
mod verification;
