//! The service in process: its contract with Tower, and every decision case by case.

#![allow(missing_docs, missing_debug_implementations, unreachable_pub, clippy::unwrap_used)]

mod affinity;
mod contract;
mod failover;
mod health;
mod local;
mod overload;
mod support;
