//! gRPC with [Tonic](https://docs.rs/tonic): channels as backends, and errors as gRPC statuses.
//!
//! A [`StickyService`](crate::StickyService) over gRPC channels can be used like a channel: a generated
//! client is made with it, and a `tonic::transport::Server` accepts a [`StickyLayer`](crate::StickyLayer)
//! like any other layer. It supports unary calls and all kinds of streams. A stream stays on its backend,
//! and counts as in flight until it ends.
//!
//! # Identifying a session
//!
//! - [`affinity::Key::header`](crate::affinity::Key::header)`("x-user-id")`: by metadata that the caller
//!   sends anyway. Best effort, without state.
//! - [`affinity::Header::sealed`](crate::affinity::Header::sealed)`("x-sticky", keys)`: by a token. It is
//!   in the initial metadata of the first response (`response.metadata()`, or `status.metadata()` if the
//!   call has failed), and the caller sends it back with later calls. It is valid on every gateway with
//!   the same keys, pool name and ids.
//! - [`StickyService::session`](crate::StickyService::session): by a handle that remembers its pin. A
//!   generated client made with it needs nothing else.
//!
//! # Channels are always ready
//!
//! `tonic::transport::Channel` is ready even if nothing listens on the port, after its server has crashed,
//! and while its server hangs: its readiness is that of a queue in front of a task that connects with the
//! first request. Therefore:
//!
//! - The readiness poll says nothing about the server. The active probe of the
//!   [health checks](crate::Health) and failed connections do.
//! - Tonic drops a call that could not connect. Behind a plain `Channel` it fails with `UNAVAILABLE`, and
//!   only the next call of the session fails over. [`GrpcChannel`] returns the call, so it fails over at
//!   once.
//! - A readiness error means that the task has ended, for example with the runtime that it ran on. This is
//!   final for a `Channel`. [`GrpcChannel`] then builds another one; for a plain `Channel` use
//!   [`Backends::rebuild_with`](crate::Backends::rebuild_with).
//! - Neither the deadline of a call nor Tonic's timeout limits the time to connect. An endpoint should have
//!   a `connect_timeout`; [`GrpcChannel`] sets one by default.
//! - The queue holds 1024 calls (the endpoint's `buffer_size`). When it is full, the backend is busy.
//! - All sessions of a backend share its channel, which has one connection. A stream that is not read
//!   holds up to 2 MB of the connection's window of 5 MB, so a few of them block the other streams. Raise
//!   the endpoint's `initial_connection_window_size` if that can happen.
//! - HTTP/2 pings detect a server that hangs if the endpoint has an `http2_keep_alive_interval`.
//!
//! # Errors
//!
//! Errors of this crate have these status codes:
//!
//! | error | code |
//! |---|---|
//! | no backend is available, the session's backend is not, no backend accepted the call, or one failed | `UNAVAILABLE` |
//! | the backend was busy for too long | `RESOURCE_EXHAUSTED` |
//! | a [strict](crate::StickyLayer::strict) layer does not know the session | `FAILED_PRECONDITION` |
//! | the backend did not answer in time | `DEADLINE_EXCEEDED` |
//! | the inner service failed | `INTERNAL` |
//!
//! With [`Respond`](crate::Respond) the error is a response without a body ("trailers-only"). If the call
//! was not executed and may succeed later, `grpc-retry-pushback-ms` has the delay in milliseconds, which
//! is [`retry_after`](crate::StickyLayer::retry_after) (gRFC A6). With [`Propagate`](crate::Propagate) the
//! source chain of the [`StickyError`](crate::StickyError) contains a `tonic::Status`, which Tonic uses. A
//! status of the backend always takes precedence.
//!
//! # Example
//!
//! ```
//! use tower_sticky::{Backends, StickyLayer, affinity, grpc::GrpcChannel};
//!
//! let backends = Backends::from_iter([
//!     ("a", GrpcChannel::new("http://10.0.0.1:50051")?),
//!     ("b", GrpcChannel::new("http://10.0.0.2:50051")?),
//! ]);
//! let sticky = StickyLayer::new(backends, affinity::Key::header("x-user-id")).into_service();
//! # type GreeterClient<T> = tonic::client::Grpc<T>;
//! let by_user = GreeterClient::new(sticky.clone());
//! let one_session = GreeterClient::new(sticky.session());
//! # Ok::<(), tower_sticky::ConfigError>(())
//! ```

mod channel;

pub use self::channel::{GrpcChannel, GrpcFuture};
