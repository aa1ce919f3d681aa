//! Runs the unit tests of the gateway's server. Those of an example are not run by themselves.

#![allow(dead_code, reason = "only the unit tests are run")]

#[path = "../../examples/gateway/server/limits.rs"]
mod limits;
#[path = "../../examples/gateway/server/refusal.rs"]
mod refusal;
#[path = "../../examples/gateway/server/socket_options.rs"]
mod socket_options;
#[path = "../../examples/gateway/server/watch.rs"]
mod watch;
