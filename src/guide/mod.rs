//! Longer texts: recipes for common applications, pages for operators, for users who come from another proxy, and for
//! contributors.
//!
//! The recipes are tested with the clients and servers that they are about. The tests run the gateway with the very
//! configurations that the pages print, with the addresses of the servers replaced.

#[doc = include_str!("architecture.md")]
pub mod architecture {}

#[doc = include_str!("configuration.md")]
pub mod configuration {}

#[doc = include_str!("cross_site.md")]
pub mod cross_site {}

#[cfg(feature = "admin")]
#[doc = include_str!("dashboard.md")]
pub mod dashboard {}

#[doc = include_str!("deployments.md")]
pub mod deployments {}

#[doc = include_str!("extend.md")]
pub mod extend {}

#[doc = include_str!("failures.md")]
pub mod failures {}

#[doc = include_str!("grpc.md")]
pub mod grpc {}

#[doc = include_str!("mcp.md")]
pub mod mcp {}

#[doc = include_str!("metrics.md")]
pub mod metrics {}

#[doc = include_str!("migration.md")]
pub mod migration {}

#[doc = include_str!("model_workers.md")]
pub mod model_workers {}

#[doc = include_str!("operations.md")]
pub mod operations {}

#[doc = include_str!("outcomes.md")]
pub mod outcomes {}

#[doc = include_str!("own_sessions.md")]
pub mod own_sessions {}

#[doc = include_str!("performance.md")]
pub mod performance {}

#[doc = include_str!("pools.md")]
pub mod pools {}

#[doc = include_str!("session_data.md")]
pub mod session_data {}

#[doc = include_str!("signalr.md")]
pub mod signalr {}

#[doc = include_str!("socket_io.md")]
pub mod socket_io {}

#[doc = include_str!("tower_http.md")]
pub mod tower_http {}

#[doc = include_str!("tracing.md")]
pub mod tracing {}

#[doc = include_str!("tus.md")]
pub mod tus {}

#[doc = include_str!("websocket.md")]
pub mod websocket {}
