//! `AccessRecord`: what is known of a request after its end.

use std::{
    fmt,
    net::SocketAddr,
    time::{Duration, SystemTime},
};

use http::{HeaderValue, Method, StatusCode, Uri, Version};

use crate::{
    outcome::{Outcome, Reason, Verdict},
    util::string_enum::words,
};

/// Takes the records, for example an [`AccessLog`](super::AccessLog) or a function. It is called while a response
/// ends, so that it must not block.
pub trait OnAccess: Send + Sync + 'static {
    /// A request has ended.
    fn record(&self, record: &AccessRecord);
}

impl<F: Fn(&AccessRecord) + Send + Sync + 'static> OnAccess for F {
    fn record(&self, record: &AccessRecord) {
        self(record);
    }
}

words! {
    /// How a response ended.
    End {
        /// All of it was taken.
        Complete = "complete",
        /// The client left before its end.
        ClientLeft = "client-left",
        /// The service failed before its end.
        Broken = "broken",
        /// The server refused the request before the service saw it.
        Refused = "refused",
    }
}

/// The status in the log of a request whose client left before the answer, as nginx writes it.
const CLIENT_CLOSED_REQUEST: u16 = 499;

/// One request, after its end. Of the request it has only what it names: no cookies, no other fields.
#[derive(Debug, Clone)]
pub struct AccessRecord {
    pub(super) time: SystemTime,
    pub(super) client: Option<SocketAddr>,
    pub(super) method: Method,
    pub(super) uri: Uri,
    pub(super) version: Version,
    pub(super) host: Option<HeaderValue>,
    pub(super) referer: Option<HeaderValue>,
    pub(super) user_agent: Option<HeaderValue>,
    pub(super) request_id: Option<HeaderValue>,
    pub(super) answer: Option<StatusCode>,
    pub(super) bytes: u64,
    pub(super) first_byte: Option<Duration>,
    pub(super) duration: Duration,
    pub(super) end: End,
    pub(super) outcome: Option<Outcome>,
}

impl AccessRecord {
    /// When the request arrived.
    pub fn time(&self) -> SystemTime {
        self.time
    }

    /// The client's address, behind trusted proxies with the port 0; `None` on a Unix socket.
    pub fn client(&self) -> Option<SocketAddr> {
        self.client
    }

    /// The method.
    pub fn method(&self) -> &Method {
        &self.method
    }

    /// The target of the request.
    pub fn uri(&self) -> &Uri {
        &self.uri
    }

    /// The version of HTTP that the client used.
    pub fn version(&self) -> Version {
        self.version
    }

    /// The host that the client named: the authority of the target (HTTP/2), or the field `Host`.
    pub fn host(&self) -> Option<&[u8]> {
        let authority = self.uri.authority().map(|authority| authority.as_str().as_bytes());
        authority.or(self.host.as_ref().map(HeaderValue::as_bytes))
    }

    /// The field `Referer` of the request.
    pub fn referer(&self) -> Option<&HeaderValue> {
        self.referer.as_ref()
    }

    /// The field `User-Agent` of the request.
    pub fn user_agent(&self) -> Option<&HeaderValue> {
        self.user_agent.as_ref()
    }

    /// The field `X-Request-Id` of the request.
    pub fn request_id(&self) -> Option<&HeaderValue> {
        self.request_id.as_ref()
    }

    /// The status of the answer; `None` when the client left before it.
    pub fn answer(&self) -> Option<StatusCode> {
        self.answer
    }

    /// The status for a log: that of the answer, or 499 when the client left before it.
    pub fn status(&self) -> u16 {
        self.answer.map_or(CLIENT_CLOSED_REQUEST, |status| status.as_u16())
    }

    /// The bytes of the response's body that were taken.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// From the arrival of the request to the head of the answer; `None` when the client left before it.
    pub fn first_byte(&self) -> Option<Duration> {
        self.first_byte
    }

    /// From the arrival of the request to the end of the response's body, of an upgraded connection to its 101.
    pub fn duration(&self) -> Duration {
        self.duration
    }

    /// How the response ended.
    pub fn end(&self) -> End {
        self.end
    }

    /// Where the request went and why; `None` when no [`StickyService`](crate::StickyService) has told it.
    pub fn outcome(&self) -> Option<&Outcome> {
        self.outcome.as_ref()
    }

    /// Whether it is to be logged in any case: an error (a status of 500 or more, a response that broke off, a
    /// client that left), a request that was rejected, or one that was served elsewhere than before.
    pub fn is_notable(&self) -> bool {
        let moved = |outcome: &Outcome| {
            matches!(outcome.verdict(), Verdict::Moved | Verdict::Borrowed | Verdict::Rejected)
                || outcome.attempts() > 1
        };
        matches!(self.end, End::ClientLeft | End::Broken)
            || self.answer.is_none_or(|status| status.is_server_error())
            || self.outcome.as_ref().is_some_and(moved)
    }

    pub(super) fn backend(&self) -> Option<&str> {
        Some(self.outcome.as_ref()?.backend()?.as_str())
    }

    pub(super) fn verdict(&self) -> Option<Verdict> {
        self.outcome.as_ref().map(Outcome::verdict)
    }

    pub(super) fn reason(&self) -> Option<Reason> {
        self.outcome.as_ref().and_then(Outcome::reason)
    }
}
