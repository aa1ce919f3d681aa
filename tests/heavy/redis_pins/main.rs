//! Learned pins in a real Redis, shared by several gateways in this process.

#![allow(missing_docs, missing_debug_implementations, unreachable_pub, clippy::unwrap_used)]

mod addresses;
mod agreement;
mod cluster;
mod cost;
mod odd_data;
mod outages;
mod refusals;
mod support;
mod tls;
