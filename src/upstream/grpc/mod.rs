//! gRPC with [Tonic](https://docs.rs/tonic): backends, and errors as its clients expect them.
//!
//! A [`StickyService`](crate::StickyService) over gRPC channels *is* a channel: a generated client is
//! made with it, and a `tonic::transport::Server` takes a [`StickyLayer`](crate::StickyLayer) as any
//! other layer. Unary calls and streams of all kinds go through it; a stream stays on its backend, and
//! counts as in flight until it has ended.
//!
//! # Who a caller is
//!
//! - [`affinity::Key::header`](crate::affinity::Key::header)`("x-user-id")`: metadata that the caller
//!   sends anyway; best effort, nothing to keep.
//! - [`affinity::Header::sealed`](crate::affinity::Header::sealed)`("x-sticky", keys)`: our token. It
//!   stands in the initial metadata of the first answer (`response.metadata()`; when the call failed,
//!   `status.metadata()`), and the caller sends it back with later calls. A gateway with the same keys,
//!   pool name and ids honours it too.
//! - [`StickyService::session`](crate::StickyService::session): a handle that remembers its backend by
//!   itself; a generated client made with it needs nothing else.
//!
//! # Channels are always ready
//!
//! `tonic::transport::Channel` says that it is ready on a dead port, after its server died, and while
//! its server hangs: its readiness is that of a queue in front of a task that connects when a request
//! comes. So
//!
//! - the readiness poll learns nothing about the server. The active probe of the
//!   [health checks](crate::Health) does, and failed connections do;
//! - a call that could not connect has been swallowed: Tonic drops it. Behind a plain `Channel` it fails
//!   with `UNAVAILABLE`, and only the next call of the session goes elsewhere. [`GrpcChannel`] gives it
//!   back, so that another backend gets it at once;
//! - the one thing that readiness does tell, an error, says that the task has ended, for example with
//!   the runtime that it ran on. It is final for a `Channel`; [`GrpcChannel`] builds another one. For a
//!   plain `Channel` that is the job of [`Backends::rebuild_with`](crate::Backends::rebuild_with);
//! - neither a call's deadline nor Tonic's timeout covers the time in which the channel connects. An
//!   endpoint should have a `connect_timeout`; [`GrpcChannel`] sees to it;
//! - the queue takes 1024 calls (the endpoint's `buffer_size`); when it is full, the backend is busy;
//! - all sessions of a backend share its channel, and that is one connection. A stream that nobody reads
//!   holds up to 2 MB of the connection's window of 5 MB, so it stops nobody else; a few of them do. An
//!   endpoint has `initial_connection_window_size` for that;
//! - a server that hangs is found by HTTP/2 pings if the endpoint has a `http2_keep_alive_interval`.
//!
//! # Errors
//!
//! An error of ours is a status, never `UNKNOWN`:
//!
//! | what | code |
//! |---|---|
//! | no backend, the session's own cannot serve, none took the call, or one failed | `UNAVAILABLE` |
//! | busy for too long | `RESOURCE_EXHAUSTED` |
//! | a session that a [strict](crate::StickyLayer::strict) layer does not know | `FAILED_PRECONDITION` |
//! | a backend that did not answer in time | `DEADLINE_EXCEEDED` |
//! | the inner service failed | `INTERNAL` |
//!
//! With [`Respond`](crate::Respond) it is an answer without a body ("trailers-only"). Where the call was
//! not executed and may succeed later, `grpc-retry-pushback-ms` says after how many milliseconds, which
//! is [`retry_after`](crate::StickyLayer::retry_after) (gRFC A6). With [`Propagate`](crate::Propagate) a
//! `tonic::Status` stands in the [`StickyError`](crate::StickyError)'s source chain, where Tonic looks
//! for it. A status of the backend's own always wins.
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
