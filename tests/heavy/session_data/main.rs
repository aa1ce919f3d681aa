//! Session data that follows a session: shops with tower-sessions behind a gateway in this process, in
//! memory and over a real Redis.

#![allow(missing_docs, missing_debug_implementations, unreachable_pub, clippy::unwrap_used)]

mod agreement;
mod cluster;
mod engine;
mod examples;
mod moves;
mod shops;
mod tls;
