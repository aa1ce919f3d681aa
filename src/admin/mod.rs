//! The dashboard and the admin interface: an Axum router that shows and changes the backends of a pool, as HTML and
//! in JSON. [`guide::dashboard`](crate::guide::dashboard) describes the pages.
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
//! | `GET /` | the dashboard |
//! | `GET /backends` | lists the backends |
//! | `PUT /backends/{id}` | adds or replaces one, if the application [can](Application::put) |
//! | `PATCH /backends/{id}` | changes one: `mode` (`active`, `draining`, `disabled`), `weight`, `max_connections`; with `draining` also `deadline` (`"10m"`), `then` (`repin`, `borrow`, `reject`) and `hand_over` (sessions per second) |
//! | `DELETE /backends/{id}` | removes one; requests in flight finish |
//! | `GET /stats` | totals of all requests |
//! | `GET /moves` | the last 1,000 moves of sessions, newest first |
//! | `POST /explain` | whose a token is, and what would happen to a request with it |
//! | `GET /openapi.json` | describes the calls in JSON, by OpenAPI 3.1 |
//! | `GET /events` | changes of the pool, as server-sent events |
//! | `GET /metrics` | metrics, as Prometheus' text or OpenMetrics |
//! | `GET /healthz` | 200 while the application serves, 503 once it stops |
//!
//! In the list of backends `sessions` is null until an idle timeout has been observed, and `sessions_seen` is a lower
//! bound of it. `drained` is there once a drain has ended.
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
mod explain;
mod filter;
mod guard;
mod json;
mod moves_json;
mod openapi;
mod page;
mod pages;
mod patch;
mod pool;
mod router;
mod session;
mod state;
mod view;
mod visit;

pub use self::{
    access::Access,
    application::{About, Application, Change, NewBackend},
    explain::parse_request,
    router::{AdminRouter, router},
    state::Stage,
};
