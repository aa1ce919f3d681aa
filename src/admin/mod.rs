//! The admin interface: an Axum router that shows and changes the backends of a pool, in JSON.
//!
//! # Example
//!
//! ```
//! use axum::Router;
//! use tower_sticky::{Backends, admin};
//!
//! let backends: Backends<()> = Backends::from_iter([("a", ()), ("b", ())]);
//! let app: Router = Router::new()
//!     .nest("/sticky", admin::router(backends).token("a long secret").build());
//! ```
//!
//! | call | does |
//! |---|---|
//! | `GET /backends` | lists the backends |
//! | `PUT /backends/{id}` | adds or replaces one, if the application [can](Application::put) |
//! | `PATCH /backends/{id}` | drains, disables, enables, weighs or limits one |
//! | `DELETE /backends/{id}` | removes one; requests in flight finish |
//! | `GET /stats` | totals of all requests |
//! | `GET /events` | changes of the pool, as server-sent events |
//! | `GET /metrics` | metrics, as Prometheus' text or OpenMetrics |
//! | `GET /healthz` | 200 while the application serves, 503 once it stops |
//!
//! # Who may call
//!
//! With a [`token`](AdminRouter::token), who has it. Without one, a client on this machine, as far as the server
//! tells the address of the client: [`serve::Server`](crate::serve::Server) does, and `axum::serve` with
//! `into_make_service_with_connect_info::<SocketAddr>()`. A client with an unknown address may only read.
//! [`without_token`](AdminRouter::without_token) is for an application that protects the router itself.
//!
//! In each case the `Host` of a request without the token must be loopback, the [`address`](AdminRouter::address)
//! or one of the [`hosts`](AdminRouter::hosts), and pages of other origins may change nothing.

mod access;
mod api;
mod application;
mod backend_json;
mod events;
mod guard;
mod json;
mod patch;
mod pool;
mod router;
mod state;

pub use self::{
    access::Access,
    application::{About, Application, Change, NewBackend},
    router::{AdminRouter, router},
    state::Stage,
};
