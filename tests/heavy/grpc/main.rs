//! Session affinity for gRPC: Tonic clients, servers and gateways, with real servers.

#![allow(missing_docs, missing_debug_implementations, clippy::unwrap_used, unreachable_pub)]

mod affinity;
mod drain;
mod errors;
mod failover;
mod gateway;
mod health;
mod mesh;
mod streams;
mod support;

#[path = "../../../examples/grpc/greeter.rs"]
mod greeter;
#[path = "../../../examples/support/server.rs"]
mod server;
