//! `serve::Server` on real sockets.

#![allow(clippy::unwrap_used, missing_docs, reason = "a test may fail in any line")]

#[cfg(feature = "tls")]
#[path = "../support/authority.rs"]
mod authority;
mod basics;
mod bodies;
#[cfg(feature = "tls")]
#[path = "../support/files.rs"]
mod files;
mod proxy_protocol;
mod support;
#[cfg(feature = "tls")]
mod tls;
#[cfg(unix)]
mod unix_socket;
mod workers;
