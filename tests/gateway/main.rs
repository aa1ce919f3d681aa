//! The gateway as a black box: its process, its command line, its file and its interfaces.

#![allow(clippy::unwrap_used, missing_docs, reason = "a test may fail in any line")]

#[cfg(feature = "tls")]
#[path = "../support/authority.rs"]
mod authority;
#[path = "../support/backends.rs"]
mod backends;
#[path = "../support/client.rs"]
mod client;
#[path = "../support/crowd.rs"]
mod crowd;
#[path = "../support/example.rs"]
mod example;
#[cfg(feature = "tls")]
#[path = "../support/files.rs"]
mod files;
#[cfg(feature = "tls")]
#[path = "../serve/tls/identities.rs"]
mod identities;
#[path = "../support/kept_connection.rs"]
mod kept_connection;
#[path = "../support/listener.rs"]
mod listener;
#[path = "../support/listening.rs"]
mod listening;
#[cfg(feature = "dns")]
#[path = "../support/name_server.rs"]
mod name_server;
#[path = "../support/page.rs"]
mod page;
#[path = "../support/process.rs"]
mod process;
#[path = "../support/server.rs"]
mod server;
#[allow(unreachable_pub, reason = "a module of the examples")]
#[path = "../../examples/support/server.rs"]
mod server_thread;
#[cfg(feature = "tls")]
#[allow(dead_code, reason = "the tests of the library use all of it")]
#[path = "../upstream/tls/support.rs"]
mod tls_backends;
#[path = "../support/unending.rs"]
mod unending;
#[allow(dead_code, reason = "the gateway's own reader of durations and sizes")]
#[path = "../../examples/gateway/config/units.rs"]
mod units;

mod access_log;
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
#[cfg(feature = "dns")]
mod contrib;
mod cross_site;
mod dashboard;
mod demo;
mod deployments;
#[cfg(feature = "dns")]
mod discover;
mod drain;
mod dropping;
mod early;
mod events;
mod expect;
mod explain;
mod failures;
mod flag_errors;
mod forwarding;
mod guide;
mod health;
mod http2_frames;
mod inherited_sockets;
mod interim;
mod limits;
mod line;
mod listeners;
mod metrics;
mod model_workers;
mod own_sessions;
mod parking;
mod raw_requests;
mod rebalance;
mod reference;
mod reload;
mod reload_listeners;
mod reload_rules;
mod reload_storm;
mod restart_in_place;
#[cfg(feature = "tls")]
mod restart_storm;
mod restarts;
mod rolling;
mod routes;
mod rows;
mod send_proxy;
mod sessions;
mod shortage;
mod stop;
mod tiers;
mod trailers;
