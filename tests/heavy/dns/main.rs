//! Service discovery over DNS, with a real name server, real backends, and requests through the service.

#![allow(missing_docs, missing_debug_implementations, unreachable_pub, clippy::unwrap_used)]

mod host;
#[path = "../../support/name_server.rs"]
mod server;
mod srv;
mod support;
