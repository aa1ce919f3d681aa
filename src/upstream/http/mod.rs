//! [`Upstream`]: an HTTP/1.1 or HTTP/2 backend over hyper, with what a reverse proxy owes to both of
//! its sides.

mod address;
mod connector;
mod exchange;
mod expect;
mod forwarded;
mod future;
mod headers;
mod http1;
mod http2;
mod idle_pool;
mod interim;
mod io;
mod request_body;
mod resolve;
mod response_body;
mod socket_options;
mod target;
mod timer;
mod trailers;
mod tunnel;
mod upstream;

pub use future::UpstreamFuture;
pub use resolve::Resolve;
pub use response_body::UpstreamBody;
pub use upstream::Upstream;
