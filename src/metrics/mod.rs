//! Metrics of pools: what the library has recorded, in Prometheus' text format, as OpenMetrics, or for the
//! recorder of the [`metrics`](https://docs.rs/metrics) crate.
//!
//! The guide lists every metric: see [`guide::metrics`](crate::guide::metrics). Recording takes a few
//! nanoseconds for each request; nothing is computed before something asks for it. No global recorder is ever
//! installed.
//!
//! # Example
//!
//! ```
//! use tower_sticky::{Backends, metrics};
//!
//! let backends: Backends<()> = Backends::from_iter([("a", ()), ("b", ())]);
//! let text = metrics::render(&backends);
//! assert!(text.contains("sticky_backend_weight{pool=\"default\",backend=\"a\"} 1\n"));
//! ```

pub mod access_log;
mod catalog;
#[cfg(feature = "proxy")]
mod connections;
mod facade;
mod own_metric;
mod pool_view;
mod report;
mod stores;
mod text;
mod visit;

pub use self::{
    own_metric::OwnMetric,
    report::{OPEN_METRICS, PROMETHEUS, Report, render},
};
