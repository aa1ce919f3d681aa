//! The fault matrix: backends that are killed, hang, flap, drain and are restarted, under real traffic.
//!
//! After every row: no violation, no request executed twice unless it may be retried, no panic, nothing in
//! flight, no task, no descriptor and no process left.

#![allow(missing_docs, missing_debug_implementations, unreachable_pub, clippy::unwrap_used)]

mod alone;
mod cancel;
mod changes;
mod death;
mod drain;
mod kill;
mod outage;
mod rolling;
mod session;
mod setup;
mod silence;
mod socket;
mod traffic;
