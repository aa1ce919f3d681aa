//! `Upstream` as a black box, against real servers on the loopback interface.

#![allow(missing_docs, unreachable_pub, clippy::unwrap_used)]

#[cfg(feature = "tls")]
#[allow(dead_code, reason = "other tests use all of it")]
#[path = "../support/authority.rs"]
mod authority;
mod breaks;
mod client_faults;
mod expect;
mod failures;
mod families;
mod http1;
mod http2;
mod names;
mod probes;
mod raw_answers;
#[allow(dead_code, reason = "other tests use all of it")]
#[path = "../in_process/support/spans.rs"]
mod recorded_spans;
mod redial;
mod refused_streams;
mod rules;
mod send_proxy;
mod spans;
mod streams;
mod support;
#[cfg(feature = "tls")]
mod tls;
#[cfg(unix)]
mod unix_sockets;
mod upgrade;
