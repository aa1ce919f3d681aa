//! An access log: one record for each request, with where it went and why.
//!
//! [`AccessLogLayer`] wraps a service and hands an [`AccessRecord`] to an [`OnAccess`] at the end of each
//! response's body, or when the client has left. [`AccessLog`] is one that writes lines: as JSON, in the formats
//! of NCSA's httpd, or as HAProxy does, so that existing tools read them. A [`LogFile`] writes them on a thread
//! of its own: a slow or blocked disk never delays a request.
//!
//! What the record says of a session is from the [`Outcome`](crate::Outcome), which the layer of the service has
//! to add: see [`outcome_extensions`](crate::StickyLayer::outcome_extensions).
//!
//! # Example
//!
//! ```
//! # fn run<S: Clone + Send + Sync + 'static>(backends: tower_sticky::Backends<S>) -> std::io::Result<()> {
//! use tower::ServiceBuilder;
//! use tower_sticky::{
//!     StickyLayer, affinity::Cookie,
//!     metrics::access_log::{AccessLog, AccessLogLayer, Format, LogFile},
//! };
//!
//! let sticky = StickyLayer::new(backends, Cookie::plain("SERVER_ID")).outcome_extensions(true);
//! let file = LogFile::open("/var/log/gateway.log")?;
//! let log = AccessLog::new(Format::Json, file.clone());
//! let service = ServiceBuilder::new().layer(AccessLogLayer::new(log)).service(sticky.into_service());
//!
//! // When the file was renamed, for example at SIGHUP:
//! file.reopen();
//! # Ok(())
//! # }
//! ```

mod body;
mod clf;
mod escape;
mod file;
mod future;
mod haproxy;
mod json;
mod layer;
mod log;
mod pending;
mod queue;
mod record;
mod request_line;
mod time;

pub use self::{
    body::AccessLogBody,
    file::LogFile,
    future::AccessLogFuture,
    layer::{AccessLogLayer, AccessLogService},
    log::{AccessLog, Format},
    record::{AccessRecord, End, OnAccess},
};
