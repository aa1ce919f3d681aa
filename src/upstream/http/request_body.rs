//! The request's body as connections take it: one type for all bodies. A body that was not polled can be
//! taken out again, as its own type.

use std::{
    future::Future,
    mem,
    pin::Pin,
    sync::{
        Arc, Mutex, MutexGuard,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    task::{Context, Poll, ready},
    time::Duration,
};

use bytes::Bytes;
use http_body::{Body, SizeHint};
use tokio::time::{Instant, Sleep, sleep_until};

use super::{
    erased_body::{Erased, Polled},
    expect::Expectation,
    io::ReadState,
    recorded_body::{RecordedBody, Recorder},
    send_limit::SendLimit,
    trailers,
};
use crate::{
    error::{BoxError, ClientError},
    util::{clock::later, lock},
};

/// A body is boxed unpinned and pinned at its first poll, so that it need not be `Unpin`, and an unpolled one
/// can be taken out again.
enum Stage {
    Empty,
    Untouched(Box<dyn Erased>),
    /// The backend has not asked for it yet.
    Expected(Box<Expected>),
    Started(Pin<Box<dyn Erased>>),
}

/// A body that waits for the backend to ask for it, for at most `wait`.
struct Expected {
    expectation: Arc<Expectation>,
    hint: SizeHint,
    wait: Duration,
    /// Runs from when the head is sent.
    sleep: Option<Pin<Box<Sleep>>>,
}

impl Expected {
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Box<dyn Erased>> {
        if let ready @ Poll::Ready(_) = self.expectation.poll_body(cx) {
            return ready;
        }
        let wait = self.wait;
        let sleep = self.sleep.get_or_insert_with(|| Box::pin(sleep_until(later(wait))));
        ready!(sleep.as_mut().poll(cx));
        self.expectation.ask();
        self.expectation.poll_body(cx)
    }
}

/// The progress of a request's body; shared with the exchange, which checks the timeouts.
#[derive(Debug)]
pub(super) struct Sending {
    began: Instant,
    /// The phase, in the lower two bits, and above them its begin in microseconds since `began`.
    phase: AtomicU64,
    client_error: Mutex<Option<ClientError>>,
    /// The whole body, once it was sent, if it was recorded.
    recorded: Mutex<Option<RecordedBody>>,
    /// Whether the head of the response has come, so that the body need not be recorded.
    is_answered: AtomicBool,
}

/// What the body waits for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Phase {
    /// The connection, which has not asked for more yet.
    Connection,
    /// The client, which was asked for more at this time and has sent nothing since.
    Client(Instant),
    /// Nothing: the connection dropped it at this time. All of it is sent, or will never be.
    Done(Instant),
}

const CONNECTION: u64 = 0;
const CLIENT: u64 = 1;
const DONE: u64 = 2;

impl Sending {
    fn new() -> Self {
        Self {
            began: Instant::now(),
            phase: AtomicU64::new(CONNECTION),
            client_error: Mutex::default(),
            recorded: Mutex::default(),
            is_answered: AtomicBool::new(false),
        }
    }

    fn enter(&self, phase: u64) {
        let micros = u64::try_from(self.began.elapsed().as_micros()).unwrap_or(u64::MAX);
        self.phase.store(micros << 2 | phase, Ordering::Release);
    }

    pub(super) fn phase(&self) -> Phase {
        let phase = self.phase.load(Ordering::Acquire);
        let since = self.began + Duration::from_micros(phase >> 2);
        match phase & 3 {
            CONNECTION => Phase::Connection,
            CLIENT => Phase::Client(since),
            _ => Phase::Done(since),
        }
    }

    /// Whether the connection has dropped the body.
    pub(super) fn is_done(&self) -> bool {
        self.phase.load(Ordering::Acquire) & 3 == DONE
    }

    /// Forgets what was recorded, and records no more: the head of the response has come.
    pub(super) fn stop_recording(&self) {
        self.is_answered.store(true, Ordering::Relaxed);
        drop(self.take_recorded());
    }

    /// Takes the whole body, if it was recorded and sent.
    pub(super) fn take_recorded(&self) -> Option<RecordedBody> {
        lock(&self.recorded).take()
    }

    /// Takes the error of the body, if it failed.
    pub(super) fn client_error(&self) -> Option<ClientError> {
        self.lock_error().take()
    }

    fn lock_error(&self) -> MutexGuard<'_, Option<ClientError>> {
        lock(&self.client_error)
    }

    /// Records that the connection has asked for more.
    fn asked(&self, polled: &Polled) {
        let was_client = self.phase.load(Ordering::Relaxed) & 3 == CLIENT;
        match polled {
            Poll::Pending if !was_client => self.enter(CLIENT),
            Poll::Ready(_) if was_client => self.enter(CONNECTION),
            _ => {}
        }
    }

    /// Records that the body failed. hyper does not pass the error on for all protocols.
    fn fail(&self, error: BoxError) -> BoxError {
        let text = error.to_string();
        *self.lock_error() = Some(ClientError::new(error));
        text.into()
    }
}

/// The body type of all connections.
pub(super) struct RequestBody {
    stage: Stage,
    sending: Option<Arc<Sending>>,
    /// How many bytes of the announced length are still to come.
    left: Option<u64>,
    send_limit: Option<SendLimit>,
    /// Boxed: HTTP/1.1 has none.
    recorder: Option<Box<Recorder>>,
    /// Whether the last frame has come.
    is_over: bool,
}

impl RequestBody {
    /// No body; allocates nothing.
    pub(super) const fn empty() -> Self {
        Self::at(Stage::Empty, None, None)
    }

    const fn at(stage: Stage, sending: Option<Arc<Sending>>, left: Option<u64>) -> Self {
        Self { stage, sending, left, send_limit: None, recorder: None, is_over: false }
    }

    pub(super) fn new<B>(body: B) -> (Self, Arc<Sending>)
    where
        B: Body<Data = Bytes> + Send + 'static,
        B::Error: Into<BoxError>,
    {
        let sending = Arc::new(Sending::new());
        let left = body.size_hint().exact();
        let stage = Stage::Untouched(Box::new(body));
        (Self::at(stage, Some(sending.clone()), left), sending)
    }

    /// A body that is sent when the backend asks for it, or has not answered for as long as `wait`.
    pub(super) fn expected<B>(body: B, wait: Duration) -> (Self, Arc<Sending>, Arc<Expectation>)
    where
        B: Body<Data = Bytes> + Send + 'static,
        B::Error: Into<BoxError>,
    {
        let sending = Arc::new(Sending::new());
        let hint = body.size_hint();
        let left = hint.exact();
        let expectation = Arc::new(Expectation::new(Box::new(body)));
        let expected = Expected { expectation: expectation.clone(), hint, wait, sleep: None };
        let stage = Stage::Expected(Box::new(expected));
        let body = Self::at(stage, Some(sending.clone()), left);
        (body, sending, expectation)
    }

    /// Limits how much of it `socket` has not taken yet.
    pub(super) fn limit_unsent(&mut self, socket: &Arc<ReadState>, bytes: usize) {
        if !matches!(self.stage, Stage::Empty) {
            self.send_limit = Some(SendLimit::new(socket.clone(), bytes));
        }
    }

    /// Records it while it is sent, if it has at most so many bytes.
    pub(super) fn record(&mut self, bytes: usize) {
        let is_small = self.left.is_none_or(|length| length <= bytes as u64);
        if is_small && !matches!(self.stage, Stage::Empty) {
            self.recorder = Some(Box::new(Recorder::new(bytes)));
        }
    }

    /// The body itself, if it was never polled.
    pub(super) fn into_untouched<B: 'static>(mut self) -> Option<B> {
        match mem::replace(&mut self.stage, Stage::Empty) {
            Stage::Untouched(body) => body.into_any().downcast().ok().map(|body| *body),
            Stage::Expected(expected) => {
                let body = expected.expectation.withdraw()?;
                body.downcast().ok().map(|body| *body)
            }
            Stage::Empty | Stage::Started(_) => None,
        }
    }

    /// Checks what the body has returned against its announced length.
    fn measured(&mut self, polled: Polled) -> Polled {
        let Some(left) = &mut self.left else { return polled };
        let wrong = match &polled {
            Poll::Ready(Some(Ok(frame))) => {
                let come = frame.data_ref().map_or(0, |data| data.len() as u64);
                match left.checked_sub(come) {
                    Some(rest) => {
                        *left = rest;
                        return polled;
                    }
                    None => "it is longer than announced",
                }
            }
            Poll::Ready(None) if *left > 0 => "it is shorter than announced",
            _ => return polled,
        };
        Poll::Ready(Some(Err(wrong.into())))
    }
}

impl Body for RequestBody {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Polled {
        if let Stage::Untouched(_) = self.stage
            && let Stage::Untouched(body) = mem::replace(&mut self.stage, Stage::Empty)
        {
            self.stage = Stage::Started(Box::into_pin(body));
        }
        if let Stage::Expected(expected) = &mut self.stage {
            let body = ready!(expected.poll(cx));
            self.stage = Stage::Started(Box::into_pin(body));
        }
        if let Some(limit) = &mut self.send_limit {
            ready!(limit.poll_ready(cx));
        }
        let Stage::Started(body) = &mut self.stage else {
            return Poll::Ready(None);
        };
        let polled = body.as_mut().poll(cx);
        let polled = self.measured(polled);
        if let (Some(limit), Poll::Ready(Some(Ok(frame)))) = (&mut self.send_limit, &polled) {
            limit.gave(frame.data_ref().map_or(0, Bytes::len));
        }
        let this = &mut *self;
        let Some(sending) = &this.sending else { return polled };
        sending.asked(&polled);
        if this.recorder.is_some() && sending.is_answered.load(Ordering::Relaxed) {
            this.recorder = None;
        }
        match polled {
            Poll::Ready(Some(Err(error))) => Poll::Ready(Some(Err(sending.fail(error)))),
            Poll::Ready(Some(Ok(frame))) => {
                if let Some(recorder) = &mut this.recorder {
                    recorder.record(&frame);
                    this.is_over = frame.is_trailers();
                }
                Poll::Ready(trailers::allowed(frame).map(Ok))
            }
            polled => {
                this.is_over |= polled.is_ready();
                polled
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        // A body that is too short is polled once more, and fails.
        let whole = self.left.is_none_or(|left| left == 0);
        match &self.stage {
            Stage::Empty => true,
            Stage::Untouched(body) => whole && body.is_end(),
            Stage::Expected(_) => false,
            Stage::Started(body) => whole && body.is_end(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match &self.stage {
            Stage::Empty => SizeHint::with_exact(0),
            Stage::Untouched(body) => body.hint(),
            Stage::Expected(expected) => expected.hint,
            Stage::Started(body) => body.hint(),
        }
    }
}

impl Drop for RequestBody {
    fn drop(&mut self) {
        if let Some(sending) = &self.sending {
            if (self.is_over || self.is_end_stream())
                && let Some(recorder) = self.recorder.take()
            {
                *lock(&sending.recorded) = recorder.finish(self.left.is_some());
            }
            sending.enter(DONE);
        }
    }
}

#[cfg(test)]
mod tests;
