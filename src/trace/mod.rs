//! Spans for tower-http's `TraceLayer`, with the names of OpenTelemetry's conventions for HTTP.
//!
//! [`RequestSpan`] makes the span of a request and declares its fields; the [`StickyService`](crate::StickyService)
//! inside it fills in where the request went and why, and [`RecordAnswer`] the status. The guide lists all spans and
//! fields: see [`guide::tracing`](crate::guide::tracing).
//!
//! # Example
//!
//! ```
//! # fn run<S: Clone + Send + Sync + 'static>(backends: tower_sticky::Backends<S>) {
//! use tower::ServiceBuilder;
//! use tower_http::trace::TraceLayer;
//! use tower_sticky::{
//!     StickyLayer, affinity::Cookie,
//!     trace::{RecordAnswer, RequestSpan},
//! };
//!
//! let sticky = StickyLayer::new(backends, Cookie::plain("SERVER_ID")).into_service();
//! let trace = TraceLayer::new_for_http()
//!     .make_span_with(RequestSpan::new())
//!     .on_request(())
//!     .on_response(RecordAnswer::new());
//! let service = ServiceBuilder::new().layer(trace).service(sticky);
//! # }
//! ```

mod record_answer;
mod request_span;

pub use self::{record_answer::RecordAnswer, request_span::RequestSpan};
