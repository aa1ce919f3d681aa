//! The layer in a stack of tower-http's: outcomes, cookies, cache headers, streams and drains with each of its layers,
//! outside and inside. The page `tower_http` of the guide explains the order.

#![allow(missing_docs, unreachable_pub, clippy::unwrap_used)]

mod bodies;
mod heads;
#[path = "../../examples/support/server.rs"]
mod server;
mod support;
mod whole;
