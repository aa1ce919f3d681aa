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
#[path = "../support/listening.rs"]
mod listening;
#[cfg(feature = "dns")]
#[path = "../support/name_server.rs"]
mod name_server;
#[path = "../support/process.rs"]
mod process;
#[path = "../support/server.rs"]
mod server;
#[cfg(feature = "tls")]
#[allow(dead_code, reason = "the tests of the library use all of it")]
#[path = "../upstream/tls/support.rs"]
mod tls_backends;
#[path = "../support/unending.rs"]
mod unending;
#[allow(dead_code, reason = "the gateway's own reader of durations and sizes")]
#[path = "../../examples/gateway/config/units.rs"]
mod units;

mod admin;
mod admin_access;
mod affinity;
mod backend_http2;
#[cfg(feature = "tls")]
mod backend_tls;
#[cfg(unix)]
mod backend_unix;
mod breaks;
mod config;
mod config_errors;
mod config_file;
mod dashboard;
mod demo;
#[cfg(feature = "dns")]
mod discover;
mod drain;
mod dropping;
mod early;
mod events;
mod expect;
mod failures;
mod forwarding;
mod health;
mod http2_frames;
mod inherited_sockets;
mod interim;
mod limits;
mod listeners;
mod metrics;
mod parking;
mod raw_requests;
mod rebalance;
mod reload;
mod restart_in_place;
mod restarts;
mod routes;
mod rows;
mod send_proxy;
mod sessions;
mod shortage;
mod stop;
mod tiers;
mod trailers;
