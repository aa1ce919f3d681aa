//! What the polls of bodies and of sockets return.

use std::task::Poll;

use http_body::{Body, Frame};

/// The next frame of a body, or its end.
pub(crate) type PolledFrame<B> = Poll<Option<Result<Frame<<B as Body>::Data>, <B as Body>::Error>>>;

/// The result of reading from a socket, or of writing to it.
#[cfg(any(feature = "proxy", feature = "serve"))]
pub(crate) type PollIo<T> = Poll<std::io::Result<T>>;
