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
