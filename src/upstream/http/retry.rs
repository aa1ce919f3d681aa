//! Sends a request once more after its exchange has failed, where that is safe.

use bytes::Bytes;
use http::Request;
use http_body::Body;
use hyper::client::conn::TrySendError;

use super::{
    connector::Link,
    exchange::{Exchange, SavedRequest, is_unprocessed, lost},
    future::{Unsent, UpstreamFuture},
    request_body::RequestBody,
};
use crate::error::{BoxError, NotSent, SendCount, Unanswered};

/// How many connections are tried for a request: a backend that accepts and closes at once must not hold it
/// for ever.
const MAX_ATTEMPTS: u8 = 3;

impl<B> UpstreamFuture<B>
where
    B: Body<Data = Bytes> + Send + 'static,
    B::Error: Into<BoxError>,
{
    /// The error of a request that could not be sent.
    pub(super) fn not_connected(&mut self, mut request: Request<B>, error: BoxError) -> BoxError {
        match self.unanswered.take() {
            // It was sent before, on another connection.
            Some(sendings) => {
                request.extensions_mut().insert(sendings);
                Unanswered::new(request, error).into()
            }
            None => NotSent::new(request, error).into(),
        }
    }

    /// Sends the request of a failed exchange on a new connection, or returns the error.
    pub(super) fn failed(
        &mut self,
        exchange: Exchange<B>,
        mut error: TrySendError<Request<RequestBody>>,
    ) -> Result<(), BoxError> {
        let Exchange { link, mut saved, .. } = exchange;
        let message = error.take_message();
        let error = error.into_error();
        let (reused, no_byte_came) = self.connection_state(&link, &error, message.is_some());
        // A backend that was not sent the body has not executed the request.
        let withdrawn = match &saved.expectation {
            Some(expectation) if no_byte_came => expectation.withdraw(),
            _ => None,
        };
        let unsent = message.is_some() || is_unprocessed(&error) || withdrawn.is_some();
        drop(link);
        if let Some(error) = saved.client_error() {
            return Err(error.into());
        }

        let withdrawn = withdrawn.and_then(|body| body.downcast::<B>().ok().map(|body| *body));
        let body = match saved.body.take().or(withdrawn) {
            Some(body) => Some(body),
            None => message.and_then(|message| message.into_body().into_untouched()),
        };
        // A failure of the request's own body is no failure of the connection.
        let is_broken = no_byte_came && !error.is_user();
        let inner = self.inner.clone();
        let lost = |error: hyper::Error| lost(&inner, error, is_broken);
        let Some(body) = body else {
            let is_sent = self.send_recorded(saved, &error);
            return if is_sent { Ok(()) } else { Err(lost(error)) };
        };
        if unsent {
            let request = saved.request(body);
            if self.attempts < MAX_ATTEMPTS && reused {
                self.dial(Unsent::Whole(request));
                return Ok(());
            }
            // A new connection was accepted and closed, which is no refusal.
            let error = lost(error);
            return Err(self.not_connected(request, error));
        }
        let repeatable = self.inner.replay_idempotent
            && saved.method.is_idempotent()
            && saved.sending.is_none()
            && saved.upgrade.is_none()
            && no_byte_came;
        if !repeatable {
            return Err(lost(error));
        }
        match self.repeat(saved.request(body), reused) {
            None => Ok(()),
            Some(request) => Err(Unanswered::new(request, lost(error)).into()),
        }
    }

    /// Sends a request that was refused unprocessed once more, with the body that was recorded. Whether it could.
    fn send_recorded(&mut self, saved: SavedRequest<B>, error: &hyper::Error) -> bool {
        let sending = saved.sending.as_ref().filter(|_| is_unprocessed(error));
        let Some(body) = sending.and_then(|sending| sending.take_recorded()) else { return false };
        if self.attempts >= MAX_ATTEMPTS {
            return false;
        }
        self.dial(Unsent::Refused(saved.request(body)));
        true
    }

    /// Whether the connection of a failed exchange had served other requests, and whether no byte of a response
    /// came. An HTTP/2 connection that has ended is not used again.
    fn connection_state(&self, link: &Link, error: &hyper::Error, is_unsent: bool) -> (bool, bool) {
        match link {
            Link::Http1(connection) => (connection.reused, !connection.read_state.bytes()),
            Link::Http2(connection, _) => {
                let unprocessed = is_unprocessed(error);
                if is_unsent || unprocessed || connection.has_ended() {
                    self.inner.shared.forget(connection);
                }
                (connection.reused || unprocessed, connection.has_ended())
            }
        }
    }

    /// Sends a request again whose kept connection ended without a response: most likely it was closed while it
    /// was idle. The request, if it is not sent again.
    fn repeat(&mut self, mut request: Request<B>, reused: bool) -> Option<Request<B>> {
        let sent = match &self.unanswered {
            Some(sendings) => sendings.0,
            None => request.extensions().get::<SendCount>().map_or(0, |sendings| sendings.0),
        };
        let sendings = SendCount(sent + 1);
        if reused && self.unanswered.is_none() && sendings < SendCount::MAX {
            self.unanswered = Some(sendings);
            self.dial(Unsent::Whole(request));
            return None;
        }
        request.extensions_mut().insert(sendings);
        Some(request)
    }
}
