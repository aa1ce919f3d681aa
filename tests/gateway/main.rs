//! The gateway as a black box: its process, its command line, its file and its interfaces.

#![allow(clippy::unwrap_used, missing_docs, reason = "a test may fail in any line")]

#[path = "../support/backends.rs"]
mod backends;
#[path = "../support/client.rs"]
mod client;
#[path = "../support/crowd.rs"]
mod crowd;
#[path = "../support/example.rs"]
mod example;
#[cfg(feature = "tls")]
#[path = "../serve/tls/identities.rs"]
mod identities;
#[path = "../support/listener.rs"]
mod listener;
#[path = "../support/process.rs"]
mod process;
#[path = "../support/server.rs"]
mod server;
#[path = "../support/unending.rs"]
mod unending;
#[allow(dead_code, reason = "the gateway's own reader of durations and sizes")]
#[path = "../../examples/gateway/config/units.rs"]
mod units;

mod admin;
mod admin_access;
mod affinity;
mod breaks;
mod config;
mod config_errors;
mod config_file;
mod demo;
mod drain;
mod dropping;
mod early;
mod events;
mod expect;
mod failures;
mod forwarding;
mod health;
mod http2_frames;
mod interim;
mod limits;
mod listeners;
mod parking;
mod raw_requests;
mod rebalance;
mod restarts;
mod rows;
mod sessions;
mod shortage;
mod stop;
mod tiers;
mod trailers;
