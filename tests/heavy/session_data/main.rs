//! Session data that follows a session: shops with tower-sessions behind a gateway in this process, in
//! memory and over a real Redis.

#![allow(missing_docs, missing_debug_implementations, unreachable_pub, clippy::unwrap_used)]

#[allow(dead_code, reason = "each test uses its part of it")]
#[path = "../browser/shop.rs"]
mod gateway;

mod agreement;
mod crowd;
mod demo;
mod engine;
mod examples;
mod kill;
mod moves;
mod processes;
mod programs;
mod shops;
