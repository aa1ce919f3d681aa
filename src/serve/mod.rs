//! A server for clients, over hyper, for any Axum or Tower service: with limits on connections, requests and
//! time, and a graceful stop.
//!
//! [`axum::serve`](https://docs.rs/axum/latest/axum/fn.serve.html) has none of a limit on connections, a timeout
//! for heads and a timeout for clients that take nothing. [`Server`] has them, with defaults for the open
//! internet: see [`Limits`].
//!
//! # Example
//!
//! An Axum application:
//!
//! ```no_run
//! # async fn run() -> std::io::Result<()> {
//! use axum::{Router, routing::get};
//! use std::time::Duration;
//! use tower_sticky::serve::{Listener, Server};
//!
//! let app: Router = Router::new().route("/", get(|| async { "hello\n" }));
//! let server = Server::new(app).listener(Listener::bind("127.0.0.1:8080").await?).start()?;
//! tokio::signal::ctrl_c().await?;
//! server.shutdown(Duration::from_secs(30)).await;
//! # Ok(())
//! # }
//! ```
//!
//! # Requests
//!
//! Each request has a [`Peer`](crate::Peer) in its extensions: the client's address, whether it used TLS, and
//! whether it is a trusted proxy. Its body is a [`RequestBody`]. Requests that hyper accepts and no application
//! should see are answered by the server: 400 for a target in authority form, an invalid or repeated `Host` and
//! a repeated `chunked`; 413, 414 and 431 beyond a limit; 417 for an unknown expectation; 501 for CONNECT and an
//! unknown transfer coding.
//!
//! # Listeners
//!
//! A [`Listener`] is a TCP or a Unix socket. It may expect the PROXY protocol ([`ProxyProtocol`]) from proxies in
//! front of it, and TLS (`ServerTls`, with the feature `tls`). Over TLS the [`Peer`](crate::Peer) says https, so
//! that cookies are `Secure`.
//!
//! # Connections
//!
//! HTTP/1.1 and HTTP/2 share a port: HTTP/2 is recognised by its preface (RFC 9113, section 3.4), or negotiated in
//! TLS (ALPN; RFC 7301). The buffers of an HTTP/1.1 connection are freed while it is idle. A request that was answered before it was read to its end is
//! read and dropped for a while, as a reset might overtake the response otherwise (RFC 9112, section 9.6).

mod accept;
mod acceptor;
mod app;
mod bodies;
mod client;
mod connection;
mod connection_limit;
mod endpoint;
mod exchange;
mod handle;
mod limits;
mod linger;
mod listener;
mod park;
mod protocol;
mod proxy_protocol;
mod refusal;
mod server;
mod shared;
mod shortage;
mod socket;
mod stream;
mod streams;
mod timeouts;
#[cfg(feature = "tls")]
mod tls;
#[cfg(unix)]
mod unix_socket;
mod watch;
mod workers;

#[cfg(feature = "tls")]
#[cfg_attr(docsrs, doc(cfg(feature = "tls")))]
pub use self::tls::{ClientAuth, ServerTls, ServerTlsBuilder, TlsVersion};
pub use self::{
    bodies::RequestBody,
    connection_limit::ConnectionLimit,
    handle::ServerHandle,
    limits::Limits,
    listener::{Listener, LocalAddr},
    proxy_protocol::ProxyProtocol,
    server::Server,
    workers::Workers,
};
