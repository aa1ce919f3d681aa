//! Session affinity (sticky sessions) for [Tower](https://docs.rs/tower): each user stays on the
//! backend that holds their session.
//!
//! A [`StickyLayer`] has a policy and a set of inner services, the [`Backends`]. Its service reads the affinity
//! token of each request, sends the request to the backend that the token names, and adds a token to the
//! response of a new session. Sessions stay where they are when other backends fail, when backends join or
//! leave, and when the gateway restarts. When the backend of a session fails, the session moves at once. Every
//! request has an [`Outcome`] that explains where it went and why.
//!
//! # Example
//!
//! An Axum gateway that keeps each browser on its backend:
//!
//! ```no_run
//! # #[cfg(feature = "proxy")]
//! # async fn run() -> Result<(), Box<dyn std::error::Error>> {
//! use axum::Router;
//! use tower_sticky::{Backends, KeyRing, StickyLayer, affinity, proxy::Upstream};
//!
//! let backends = Backends::from_iter([
//!     ("a", Upstream::new("http://10.0.0.1:8080")?),
//!     ("b", Upstream::new("http://10.0.0.2:8080")?),
//! ]);
//! let keys = KeyRing::from_env("STICKY_KEY")?;
//! let sticky = StickyLayer::new(backends.clone(), affinity::Cookie::sealed("SERVER_ID", keys));
//! let app: Router = Router::new().fallback_service(sticky.into_service());
//! let listener = tokio::net::TcpListener::bind("127.0.0.1:8080").await?;
//! axum::serve(listener, app).await?;
//! # Ok(())
//! # }
//! ```
//!
//! # Persistence and affinity by hash
//!
//! - **Persistence**: a token names the backend. A promise: no session moves without need.
//! - **Affinity by hash**: a key of the request chooses the backend. Best effort, without state.
//!
//! In order of preference: a sealed token (no table, and all gateways agree); a hash of a stable
//! key; a table, only for ids that the application issues itself. See [`affinity`].
//!
//! # Backends
//!
//! A backend is any Tower service that is `Clone + Send + Sync + 'static` and whose error converts into a
//! [`BoxError`]; [`tower::buffer`](https://docs.rs/tower/latest/tower/buffer) makes any other service
//! clonable. The instance whose readiness was polled is the one that is called. The errors [`NotSent`] and
//! [`Unanswered`] give the request back, so that another backend can serve it without a copy.
//! [`proxy::Upstream`] returns them; [`Reclaim`] adds them to any other HTTP client.
//!
//! Tonic's `Channel` and most HTTP clients are always ready, even if their server is down. For them the
//! readiness poll finds nothing out, and active probes and passive detection do the work: see [`Health`].
//! [`grpc`] has a better backend than a `Channel`.
//!
//! # Features
//!
//! | feature | adds |
//! |---|---|
//! | `proxy` | [`proxy::Upstream`], an HTTP/1.1 and HTTP/2 backend over hyper |
//! | `axum` | [`affinity::ClientIp`] reads the client address from Axum |
//! | `tonic` | [`grpc`]: a gRPC backend over Tonic's channel, and gRPC statuses as errors; [`affinity::ClientIp`] reads the client address from Tonic |
//! | `discover` | [`Backends::follow`]: backends from a `tower::discover::Discover` stream |
//! | `dns` | [`Backends::follow_dns`]: backends from DNS; see [`discovery`] |
//! | `redis` | [`store::RedisStore`]: learned pins that several gateways share, on Redis or Valkey |
//! | `redis-tls` | the same over TLS |
//! | `session` | [`session_data`]: sessions of tower-sessions that follow a session when it moves |
//! | `redis`, with `session` | [`session_data::RedisStore`]: these sessions on Redis or Valkey |
//! | `admin` | [`admin`]: a dashboard and an admin interface, as an Axum router |
//! | `metrics` | [`metrics`]: counters and histograms for Prometheus, or for the recorder of the `metrics` crate; [`metrics::access_log`]: a record of each request |
//! | `trace` | [`trace`]: spans with the names of OpenTelemetry, for the `TraceLayer` of tower-http |
//! | `tls`, with `proxy` | TLS to backends: [`proxy::ClientTls`] |
//! | `serve` | [`serve::Server`]: a server for any Axum or Tower service, with limits, Unix sockets, the PROXY protocol and a graceful stop |
//! | `tls`, with `serve` | TLS from clients: [`serve::ServerTls`] |
//! | `full` | all of them |
//!
//! # Guide
//!
//! The [`guide`] has recipes for common applications, each tested with the real clients: [Socket.IO](guide::socket_io),
//! [SignalR and Blazor](guide::signalr), [WebSockets](guide::websocket), [MCP](guide::mcp), [tus](guide::tus),
//! [gRPC](guide::grpc), [model workers](guide::model_workers), and
//! [Tomcat, PHP and Rails](guide::own_sessions). It shows [several pools in one router](guide::pools) and the layer
//! [in a stack with tower-http](guide::tower_http), and explains what happens when backends
//! [fail, fill up, drain, join and leave](guide::failures), how to [keep session data](guide::session_data) when a
//! server dies, [every outcome and reason](guide::outcomes), and the [architecture](guide::architecture) of the crate.

#![forbid(unsafe_code)]
// Handling a request must not panic. The few panics while building are allowed where they are.
#![cfg_attr(
    not(test),
    deny(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::unreachable)
)]
#![cfg_attr(docsrs, feature(doc_cfg))]

mod dispatch;
mod error;
mod hash;
mod health;
mod id;
mod outcome;
mod pool;
#[cfg(feature = "redis")]
mod redis;
mod service;
mod session;
#[cfg(all(feature = "tls", any(feature = "proxy", feature = "serve")))]
#[cfg_attr(
    not(feature = "proxy"),
    allow(dead_code, unused_imports, reason = "one side uses a part")
)]
mod tls;
mod token;
mod upstream;
mod util;

#[cfg(fuzzing)]
#[doc(hidden)]
pub mod fuzzing;

#[cfg(feature = "admin")]
pub mod admin;
pub mod affinity;
#[cfg(any(feature = "discover", feature = "dns"))]
pub mod discovery;
pub mod guide;
#[cfg(feature = "metrics")]
pub mod metrics;
#[cfg(feature = "serve")]
pub mod serve;
#[cfg(feature = "session")]
pub mod session_data;
pub mod store;
pub mod strategy;
#[cfg(feature = "trace")]
pub mod trace;

#[cfg(feature = "tonic")]
pub use self::upstream::grpc;
#[cfg(feature = "proxy")]
pub use self::upstream::http as proxy;
pub use self::{
    dispatch::{Explanation, Finding, Forecast, Move, Rebalance},
    error::{
        BoxError, ClientError, ConfigError, Disconnected, NotSent, Redial, Shortage, TimedOut,
        Unanswered,
    },
    health::{GrpcProbe, Health, HttpProbe, NoProbe, Probe, ProbeBody, SuccessRate},
    id::{BackendId, SessionHash, SessionId},
    outcome::{
        Busy, DrainOver, Failover, Outcome, Reason, Stats, StickyError, Strict, TokenCause, Verdict,
    },
    pool::{
        BackendOptions, BackendStatus, Backends, Cause, Drain, DrainEnd, DrainReport, DrainSignal,
        DrainStatus, Draining, Event, Events, Mode, MoveRecord, PoolError, PoolStatus, PoolUpdate,
        State, UpgradeEnd, UpgradeGuard,
    },
    service::{
        NoBody, NoInner, OnError, Propagate, Respond, ResponseFuture, StickyBody, StickyLayer,
        StickyService, StickySession,
    },
    session::{Peer, Preference, SessionAction, SessionInfo},
    token::{Key, KeyRing},
    upstream::{Reclaim, ReclaimBody, ReclaimFuture},
    util::{SystemClock, WallClock},
};
