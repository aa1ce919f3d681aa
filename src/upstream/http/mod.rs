//! [`Upstream`]: an HTTP/1.1 or HTTP/2 backend over hyper, for a reverse proxy.
//!
//! # What the server in front has to check
//!
//! [`Upstream`] forwards what a server hands it. hyper's server accepts some requests that no backend should
//! see: a target in authority form (`GET admin`), `GET *`, an invalid or repeated `Host`, and unknown
//! expectations. The server in front answers these, as [`serve`](crate::serve) does. A transfer coding other
//! than `chunked` is refused here with a [`ClientError`](crate::ClientError).
//!
//! # What hyper and h2 do not do yet
//!
//! As of hyper 1.12 and h2 0.4.20:
//!
//! - An invalid method, field name or field value in HTTP/2 ends the connection with PROTOCOL_ERROR, and not
//!   only its stream (RFC 9113, section 8.1.1).
//! - Pseudo-header fields in HTTP/2 trailers are ignored instead of ending their stream (RFC 9113, section
//!   8.1). They are not passed on.
//! - Floods of empty DATA and of RST_STREAM frames end in GOAWAY(ENHANCE_YOUR_CALM); floods of PING, SETTINGS,
//!   PRIORITY and WINDOW_UPDATE are answered at the pace at which the client reads, and have no limit.
//! - Interim responses are not available in HTTP/2: 103 is dropped on the way from an HTTP/2 backend and to an
//!   HTTP/2 client ([hyper#4114](https://github.com/hyperium/hyper/pull/4114)), and an HTTP/2 client that sends
//!   `Expect: 100-continue` gets no 100, so that it sends its body after its own timeout
//!   ([hyper#2743](https://github.com/hyperium/hyper/issues/2743)).
//! - `http::Uri` does not tell `OPTIONS http://a` from `OPTIONS http://a/`: both become `OPTIONS /` (RFC 9112,
//!   section 3.2.4 asks for `*` in place of the first).
//! - A request that is sent at the moment at which another thread drops its connection can be left in hyper's queue
//!   ([hyper#4122](https://github.com/hyperium/hyper/issues/4122)). Here it is returned and sent again; of a gRPC channel
//!   of tonic's it has only its deadline.
//! - An HTTP/2 connection keeps its buffers while it is idle, as hyper does not return its socket; an HTTP/1.1
//!   connection of a server can be taken apart, as in [`serve`](crate::serve).
//! - A server over hyper that has not read a request to its end when it responds must keep reading for a while
//!   before it closes the socket, or a reset may overtake the response (RFC 9112, section 9.6). hyper does not;
//!   [`serve`](crate::serve) does.

mod address;
mod buffers;
#[cfg(feature = "tls")]
mod client_tls;
mod connection_counts;
mod connector;
mod dial;
mod erased_body;
mod exchange;
mod expect;
mod explained;
mod forwarded;
mod future;
#[cfg(feature = "tls")]
mod handshake;
mod headers;
mod http1;
mod http2;
mod idle_pool;
mod interim;
mod io;
mod options;
mod protocol;
mod proxy_protocol;
mod recorded_body;
mod request_body;
mod resolve;
mod response_body;
mod retry;
mod send_limit;
mod span;
mod stream;
mod target;
mod timer;
mod trailers;
mod tunnel;
mod upstream;

#[cfg(feature = "tls")]
pub use self::client_tls::ClientTls;
pub use self::{
    connection_counts::ConnectionStats, future::UpstreamFuture, protocol::Http2,
    proxy_protocol::ProxyProtocol, resolve::Resolve, response_body::UpstreamBody,
    upstream::Upstream,
};
#[cfg(feature = "tls")]
pub use crate::tls::{Roots, TlsVersion};
