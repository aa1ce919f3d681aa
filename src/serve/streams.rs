//! HTTP/2 streams whose client takes nothing: hyper waits for them without a limit.

use std::{
    cell::Cell,
    future::Future,
    pin::Pin,
    task::{Context, Poll},
    time::Duration,
};

use hyper::rt::Executor;
use pin_project_lite::pin_project;
use tokio::time::{Sleep, sleep};

thread_local! {
    static ASKED: Cell<Asked> = const { Cell::new(Asked { times: 0, had_frame: false }) };
}

/// What the bodies of answers were asked for on this thread.
#[derive(Debug, Clone, Copy)]
struct Asked {
    times: u64,
    /// Whether there was a frame the last time: until the body is asked for the next one, hyper waits for the
    /// client to take it.
    had_frame: bool,
}

/// An answer's body was asked for a frame; whether it had one.
pub(super) fn asked(had_frame: bool) {
    let times = ASKED.get().times.wrapping_add(1);
    ASKED.set(Asked { times, had_frame });
}

/// Spawns the tasks of HTTP/2 connections. Those of streams end when the client takes nothing for too
/// long; hyper resets the stream then.
#[derive(Debug, Clone)]
pub(super) struct Streams {
    pub(super) write_timeout: Duration,
}

impl<F> Executor<F> for Streams
where
    F: Future + Send + 'static,
    F::Output: Send + 'static,
{
    fn execute(&self, future: F) {
        let limit = self.write_timeout;
        drop(tokio::spawn(Stream { future, limit, blocked: false, sleep: None }));
    }
}

pin_project! {
    struct Stream<F> {
        #[pin]
        future: F,
        limit: Duration,
        blocked: bool,
        // Runs while the client takes nothing.
        sleep: Option<Pin<Box<Sleep>>>,
    }
}

impl<F: Future> Future for Stream<F> {
    type Output = ();

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        let this = self.project();
        let before = ASKED.get().times;
        if this.future.poll(cx).is_ready() {
            return Poll::Ready(());
        }
        let now = ASKED.get();
        if now.times != before {
            *this.blocked = now.had_frame;
            *this.sleep = None;
        }
        if !*this.blocked {
            return Poll::Pending;
        }
        let limit = *this.limit;
        let sleep = this.sleep.get_or_insert_with(|| Box::pin(sleep(limit)));
        sleep.as_mut().poll(cx)
    }
}
