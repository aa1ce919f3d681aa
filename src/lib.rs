//! Session affinity (sticky sessions) for [Tower](https://docs.rs/tower): each user stays on the
//! backend that holds their session.
//!
//! A [`StickyLayer`] has a policy and a set of inner services, the [`Backends`]. Its service reads
//! the affinity token of each request, dispatches the request to the backend that the token names,
//! and puts a token on the response of a new session. Sessions outlive the failure of other
//! backends, scaling up and down, and restarts of the gateway; when a session's own backend fails,
//! the session moves at once, and every request can be asked [why](Outcome) it went where it went.
//!
//! # Example
//!
//! A gateway with Axum; every connection of a browser to it sticks:
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
//! # Two promises
//!
//! - **Persistence**: a token names the backend. A promise: nobody moves who need not move.
//! - **Affinity by hash**: a key of the request chooses the backend. Best effort, without state.
//!
//! In order of preference: a sealed token (no table, and all gateways agree); a hash of a stable
//! key; a table, only for ids that the application issues itself. See [`affinity`].
//!
//! # What a backend is
//!
//! Any Tower service that is `Clone + Send + Sync + 'static` and whose error converts into a
//! [`BoxError`]; [`tower::buffer`](https://docs.rs/tower/latest/tower/buffer) makes a clonable one of
//! any other. The service whose readiness was polled is the one that is called. Two errors have a
//! meaning: [`NotSent`] and [`Unanswered`] give the request back, so that it can go elsewhere
//! without having been copied. [`proxy::Upstream`] speaks them; [`Reclaim`] teaches them to any other
//! HTTP client.
//!
//! Tonic's `Channel` and most HTTP clients are always "ready", dead or not: for them the readiness
//! poll finds nothing out, and probes and passive detection do the work. See [`Health`], and [`grpc`]
//! for what makes a better backend of a `Channel`.
//!
//! # Features
//!
//! | feature | what |
//! |---|---|
//! | `proxy` | [`proxy::Upstream`], an HTTP/1.1 and HTTP/2 backend over hyper |
//! | `axum` | [`affinity::ClientIp`] finds the address that Axum tells |
//! | `tonic` | [`grpc`]: a gRPC backend over Tonic's channel, and errors as its clients expect them; [`affinity::ClientIp`] finds the address that Tonic tells |
//! | `discover` | [`Backends::follow`]: the backends from a `tower::discover::Discover` stream |
//! | `dns` | [`Backends::follow_dns`]: the backends from the domain name system; see [`discovery`] |
//! | `redis` | [`store::RedisStore`]: learned pins that several gateways share, on Redis or Valkey |
//! | `redis-tls` | the same over TLS |
//! | `session` | [`session_data`]: sessions of tower-sessions that follow a session when it moves |
//! | `redis`, with `session` | [`session_data::RedisStore`]: these sessions in Redis or Valkey |
//! | `full` | all of them |

#![forbid(unsafe_code)]
// No request may meet a panic: the few that there are belong to building, and say so themselves.
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
mod token;
mod upstream;
mod util;

pub mod affinity;
#[cfg(any(feature = "discover", feature = "dns"))]
pub mod discovery;
pub mod guide;
#[cfg(feature = "session")]
pub mod session_data;
pub mod store;
pub mod strategy;

#[cfg(feature = "tonic")]
pub use self::upstream::grpc;
#[cfg(feature = "proxy")]
pub use self::upstream::http as proxy;
pub use self::{
    dispatch::{Move, Rebalance},
    error::{
        BoxError, ClientError, ConfigError, Disconnected, NotSent, Redial, Shortage, TimedOut,
        Unanswered,
    },
    health::{GrpcProbe, Health, HttpProbe, NoProbe, Probe, ProbeBody, SuccessRate},
    id::{BackendId, SessionId},
    outcome::{Busy, DrainOver, Failover, Outcome, Reason, Stats, StickyError, Strict, Verdict},
    pool::{
        BackendOptions, BackendStatus, Backends, Cause, Drain, DrainEnd, DrainReport, DrainSignal,
        Draining, Event, Events, Mode, PoolError, PoolStatus, State, UpgradeEnd, UpgradeGuard,
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
