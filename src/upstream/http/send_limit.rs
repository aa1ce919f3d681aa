//! Limits how much of a request's body hyper holds before the backend takes it.

use std::{
    sync::Arc,
    task::{Context, Poll, ready},
};

use super::io::ReadState;

/// Of one request.
#[derive(Debug)]
pub(super) struct SendLimit {
    socket: Arc<ReadState>,
    limit: usize,
    /// How much hyper was given since the socket had taken everything, and how often it had.
    given: usize,
    flushes: u64,
}

impl SendLimit {
    /// With `limit` bytes that are not sent, no more are given.
    pub(super) fn new(socket: Arc<ReadState>, limit: usize) -> Self {
        let flushes = socket.flushes();
        Self { socket, limit, given: 0, flushes }
    }

    /// Whether more may be given.
    pub(super) fn poll_ready(&mut self, cx: &Context<'_>) -> Poll<()> {
        if self.given >= self.limit {
            ready!(self.socket.poll_flushed(self.flushes, cx));
            self.given = 0;
        }
        Poll::Ready(())
    }

    pub(super) fn gave(&mut self, bytes: usize) {
        let flushes = self.socket.flushes();
        if self.flushes != flushes {
            (self.flushes, self.given) = (flushes, 0);
        }
        self.given += bytes;
    }
}

#[cfg(test)]
mod tests {
    use std::task::Waker;

    use tokio::{
        io::AsyncWriteExt,
        net::{TcpListener, TcpStream},
    };

    use super::{
        super::{io::Socket, stream::Stream},
        *,
    };
    use crate::util::{Growth, ReadSize};

    #[tokio::test]
    async fn no_more_is_given_than_the_limit_until_all_of_it_is_sent() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let stream = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        let read_size = ReadSize::new(64 << 10, Growth::RESPONSE);
        let (mut socket, state) = Socket::new(Stream::Tcp(stream), read_size);
        let cx = Context::from_waker(Waker::noop());
        let mut limit = SendLimit::new(state, 4);
        for _ in 0..2 {
            assert!(limit.poll_ready(&cx).is_ready());
            limit.gave(2);
        }
        assert!(limit.poll_ready(&cx).is_pending(), "four bytes are not sent");
        socket.write_all(b"four").await.unwrap();
        assert!(limit.poll_ready(&cx).is_pending(), "there may be more of them to write");
        socket.flush().await.unwrap();
        assert!(limit.poll_ready(&cx).is_ready(), "the socket has taken them");

        limit.gave(3);
        assert!(limit.poll_ready(&cx).is_ready(), "what is sent does not count");
        socket.write_all(b"abc").await.unwrap();
        socket.flush().await.unwrap();
        limit.gave(3);
        assert!(limit.poll_ready(&cx).is_ready(), "only what was given since then counts");
        limit.gave(1);
        assert!(limit.poll_ready(&cx).is_pending());
    }
}
