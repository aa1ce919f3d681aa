//! The fault matrix: backends that are killed, hang, flap, drain and are restarted, under real traffic.
//!
//! After every row: no violation, no request executed twice unless it may be, no panic, nothing in
//! flight, no task, no descriptor and no process left.

#![allow(missing_docs, missing_debug_implementations, unreachable_pub, clippy::unwrap_used)]

#[path = "faults/alone.rs"]
mod alone;
#[path = "faults/cancel.rs"]
mod cancel;
#[path = "faults/changes.rs"]
mod changes;
#[path = "faults/death.rs"]
mod death;
#[path = "faults/drain.rs"]
mod drain;
#[path = "faults/kill.rs"]
mod kill;
#[path = "faults/outage.rs"]
mod outage;
#[allow(dead_code, reason = "each test uses its part of it")]
#[path = "faults/process.rs"]
mod process;
#[path = "faults/rolling.rs"]
mod rolling;
#[path = "faults/session.rs"]
mod session;
#[path = "faults/setup.rs"]
mod setup;
#[path = "faults/silence.rs"]
mod silence;
#[path = "faults/socket.rs"]
mod socket;
#[path = "faults/traffic.rs"]
mod traffic;
