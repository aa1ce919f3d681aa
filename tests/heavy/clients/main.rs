//! The layer and the gateway with clients and servers of other projects: a browser, curl, Node.js,
//! OpenSSL, Tonic, WebSockets, and a name server.

#![allow(missing_docs, missing_debug_implementations, unreachable_pub, clippy::unwrap_used)]

mod browser;
mod curl;
mod dashboard;
#[allow(dead_code, reason = "each target uses a part of it")]
#[path = "../../support/name_server.rs"]
mod dns_server;
mod name_server;
mod nodejs;
mod openssl;
mod recipes;
mod tonic_server;
mod websocket;
