//! What is left of a request when its connection closes.

use std::{
    future::Future,
    pin::Pin,
    task::{Context, Poll, ready},
    time::Duration,
};

use tokio::{
    io::{AsyncRead, ReadBuf},
    time::{Instant, Sleep, sleep_until},
};

use super::{limits::Limits, stream::Stream};

/// How long a client may be silent while the rest of its request is dropped.
const LINGER_SILENCE: Duration = Duration::from_secs(1);
/// How often is looked whether other clients wait for a connection.
const LINGER_CHECK: Duration = Duration::from_millis(100);

/// The writing side is shut down, and what still comes is dropped. If the socket were closed now, the
/// client's next bytes would be answered with a reset, which may overtake the response (RFC 9112, section
/// 9.6).
#[derive(Debug)]
pub(super) struct Linger {
    end: Instant,
    silent_since: Instant,
    /// `None` beyond the limit.
    bytes_left: Option<u64>,
    sleep: Pin<Box<Sleep>>,
}

impl Linger {
    pub(super) fn new(limits: &Limits) -> Self {
        let now = Instant::now();
        let end = now + limits.linger;
        let sleep = Box::pin(sleep_until(end));
        Self { end, silent_since: now, bytes_left: Some(limits.linger_bytes), sleep }
    }

    /// Reads and drops until the client has closed, or a limit is reached. Beyond the limit in bytes the
    /// client is not read any more, but still has time to read the response. When others wait for
    /// a connection, it ends.
    pub(super) fn poll(
        &mut self,
        stream: &mut Stream,
        others_wait: bool,
        cx: &mut Context<'_>,
    ) -> Poll<()> {
        loop {
            let now = Instant::now();
            while let Some(left) = self.bytes_left {
                let mut bytes = [0; 8 << 10];
                let mut buffer = ReadBuf::new(&mut bytes);
                match Pin::new(&mut *stream).poll_read(cx, &mut buffer) {
                    Poll::Ready(Ok(())) if !buffer.filled().is_empty() => {
                        self.silent_since = now;
                        self.bytes_left = left.checked_sub(buffer.filled().len() as u64);
                    }
                    // Closed, or broken.
                    Poll::Ready(_) => return Poll::Ready(()),
                    Poll::Pending => break,
                }
            }
            let end = self.end.min(self.silent_since + LINGER_SILENCE);
            if now >= end || others_wait {
                return Poll::Ready(());
            }
            self.sleep.as_mut().reset(end.min(now + LINGER_CHECK));
            ready!(self.sleep.as_mut().poll(cx));
        }
    }
}
