//! `Expect: 100-continue` (RFC 9110, section 10.1.1): the body of a request is not polled until the backend
//! asks for it.

use std::{
    any::Any,
    sync::{Arc, Mutex, MutexGuard},
    task::{Context, Poll, Waker},
};

use http::{HeaderMap, StatusCode, Version, header};
use hyper::ext::on_informational;

use super::erased_body::Erased;
use crate::util::lock;

/// Whether the sender of a request waits for 100 before it sends the body.
pub(super) fn expects_continue(version: Version, headers: &HeaderMap) -> bool {
    version >= Version::HTTP_11
        && headers
            .get(header::EXPECT)
            .is_some_and(|value| value.as_bytes().eq_ignore_ascii_case(b"100-continue"))
}

/// A body that the backend has not asked for yet; shared by the connection, which sends it, and the
/// request, which may take it back.
pub(super) struct Expectation {
    state: Mutex<State>,
}

enum State {
    Waiting {
        body: Box<dyn Erased>,
        waker: Option<Waker>,
    },
    /// The backend wants the body.
    Asked(Box<dyn Erased>),
    /// It is being sent.
    Sent,
    /// The backend has responded without it, or the request was restored.
    Withdrawn,
}

impl Expectation {
    pub(super) fn new(body: Box<dyn Erased>) -> Self {
        Self { state: Mutex::new(State::Waiting { body, waker: None }) }
    }

    /// Asks for the body when the backend responds to `request` with 100.
    pub(super) fn listen<B>(self: &Arc<Self>, request: &mut http::Request<B>) {
        let expectation = self.clone();
        on_informational(request, move |response| {
            if response.status() == StatusCode::CONTINUE {
                expectation.ask();
            }
        });
    }

    /// Asks for the body: the backend wants it, or has not responded in time.
    pub(super) fn ask(&self) {
        let mut state = self.lock();
        match std::mem::replace(&mut *state, State::Sent) {
            State::Waiting { body, waker } => {
                *state = State::Asked(body);
                drop(state);
                if let Some(waker) = waker {
                    waker.wake();
                }
            }
            other => *state = other,
        }
    }

    /// The body, once it is asked for. Pending for ever once it is withdrawn: its connection is closed then.
    pub(super) fn poll_body(&self, cx: &Context<'_>) -> Poll<Box<dyn Erased>> {
        let mut state = self.lock();
        if let State::Waiting { waker, .. } = &mut *state {
            *waker = Some(cx.waker().clone());
            return Poll::Pending;
        }
        match std::mem::replace(&mut *state, State::Sent) {
            State::Asked(body) => Poll::Ready(body),
            other => {
                *state = other;
                Poll::Pending
            }
        }
    }

    /// Withdraws the body if it was not asked for, and returns it.
    pub(super) fn withdraw(&self) -> Option<Box<dyn Any>> {
        let mut state = self.lock();
        if !matches!(*state, State::Waiting { .. }) {
            return None;
        }
        match std::mem::replace(&mut *state, State::Withdrawn) {
            State::Waiting { body, .. } => Some(body.into_any()),
            _ => None,
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        lock(&self.state)
    }
}
