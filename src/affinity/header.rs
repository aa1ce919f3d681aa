//! The pin in a header of its own.

use std::{fmt, sync::Arc, time::Duration};

use http::{HeaderMap, HeaderName, HeaderValue};

use super::{
    BoundAffinity, Change, Commit, Head, ReadContext, Reading, RequestState, cache_control,
    token_codec::{TokenCodec, TokenLifetime, refuse},
    traits::sealed::Bind,
};
use crate::{error::ConfigError, id::BackendId, token::KeyRing};

/// Our token in a header: for clients without a cookie jar, such as programs and gRPC callers.
///
/// The response of a new session has the header; the client sends it back, as it is, with every
/// later request of the session, and replaces it when a response has a new one. It is taken out of
/// the request before a backend sees it, and a header of this name that a backend sends is dropped.
/// Of several values the first usable one wins.
///
/// # Example
///
/// ```
/// use std::time::Duration;
/// use tower_sticky::{KeyRing, affinity::Header};
///
/// let keys = KeyRing::generate()?; // in production KeyRing::from_env("STICKY_KEY")
/// let header = Header::sealed("x-sticky", keys).idle_timeout(Duration::from_secs(1800));
/// # Ok::<(), tower_sticky::ConfigError>(())
/// ```
#[derive(Clone)]
pub struct Header {
    name: String,
    life: TokenLifetime,
    forward: bool,
}

impl Header {
    /// A header that holds the backend's id as it is: readable and forgeable. No timeouts. Prefer
    /// [`sealed`](Self::sealed).
    pub fn plain(name: impl Into<String>) -> Self {
        Self { name: name.into(), life: TokenLifetime::new(None), forward: false }
    }

    /// A header that holds a sealed token, with all the promises of
    /// [`Cookie::sealed`](crate::affinity::Cookie::sealed).
    pub fn sealed(name: impl Into<String>, keys: KeyRing) -> Self {
        Self { name: name.into(), life: TokenLifetime::new(Some(keys)), forward: false }
    }

    /// Ends a session that has sent no request for this long, in whole seconds. The token is written
    /// anew once a quarter of it has passed. Only for sealed tokens.
    #[must_use]
    pub fn idle_timeout(mut self, timeout: Duration) -> Self {
        self.life.idle = Some(timeout);
        self
    }

    /// Ends a session this long after it began, in whole seconds. Only for sealed tokens.
    #[must_use]
    pub fn absolute_timeout(mut self, timeout: Duration) -> Self {
        self.life.absolute = Some(timeout);
        self
    }

    /// How far the dates of a token may lie ahead of this gateway's clock, in whole seconds; default 1
    /// hour. One that lies within it is accepted, and written anew with dates of now; one further ahead
    /// is [malformed](crate::Reason::Malformed). The idle timeout must exceed the difference of the
    /// gateways' clocks.
    #[must_use]
    pub fn clock_skew(mut self, skew: Duration) -> Self {
        self.life.skew = skew;
        self
    }

    /// Whether an open response, event stream or WebSocket of a session keeps it from idling out on this
    /// gateway, and its end counts as the last sight of the session; default `true`. The absolute timeout
    /// is not extended. Other gateways do not know of the stream: a session whose next request goes to
    /// one of them is idle there.
    #[must_use]
    pub fn streams_keep_alive(mut self, keep_alive: bool) -> Self {
        self.life.streams = keep_alive;
        self
    }

    /// Whether backends see the header; default `false`.
    #[must_use]
    pub fn forward(mut self, forward: bool) -> Self {
        self.forward = forward;
        self
    }
}

impl fmt::Debug for Header {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Header")
            .field("name", &self.name)
            .field("sealed", &self.life.keys.is_some())
            .finish_non_exhaustive()
    }
}

/// A header name that is ours to use.
pub(crate) fn header_name(name: &str) -> Result<HeaderName, ConfigError> {
    let carrier = format!("the header {name:?}");
    let parsed = HeaderName::from_bytes(name.as_bytes())
        .map_err(|_| refuse(&carrier, "it is not a header name; use one such as \"x-sticky\""))?;
    // Framing, routing and cookies are not ours: a token there would break every request.
    let taken = [
        "connection",
        "content-length",
        "content-type",
        "cookie",
        "host",
        "set-cookie",
        "te",
        "trailer",
        "transfer-encoding",
        "upgrade",
    ];
    if taken.contains(&parsed.as_str()) {
        return Err(refuse(&carrier, "HTTP itself uses it; choose a header of your own"));
    }
    Ok(parsed)
}

impl Bind for Header {
    fn bind(&self, pool: &str) -> Result<Arc<dyn BoundAffinity>, ConfigError> {
        let name = header_name(&self.name)?;
        self.life.check().map_err(|why| refuse(&format!("the header {:?}", self.name), &why))?;
        let tokens = TokenCodec::new(self.life.clone(), "header", pool, name.as_str());
        Ok(Arc::new(Bound { name, tokens, forward: self.forward }))
    }
}

#[derive(Debug)]
struct Bound {
    name: HeaderName,
    tokens: TokenCodec,
    forward: bool,
}

impl BoundAffinity for Bound {
    fn read(&self, request: &Head<'_>, pool: &mut ReadContext<'_>) -> Reading {
        let mut reading = Reading::default();
        for value in request.headers.get_all(&self.name) {
            reading.found = !self.forward;
            let usable = self.tokens.read(value.as_bytes(), pool, &mut reading);
            if usable && !self.tokens.have_epochs() {
                break;
            }
        }
        reading
    }

    fn strip(&self, _: &Reading, _: &mut ReadContext<'_>, headers: &mut HeaderMap) {
        if !self.forward {
            headers.remove(&self.name);
        }
    }

    fn respond(&self, commit: &Commit<'_>, _: &mut RequestState, headers: &mut HeaderMap) -> bool {
        headers.remove(&self.name);
        if commit.change == Change::Keep {
            return false;
        }
        let token = self.tokens.write(commit).and_then(|w| HeaderValue::try_from(w.token).ok());
        let Some(token) = token else {
            tracing::error!(header = %self.name, "no token could be made; the session is not pinned");
            return false;
        };
        headers.insert(self.name.clone(), token);
        cache_control::make_private(headers, self.name.as_str());
        true
    }

    /// An empty value: the client has nothing to send any more.
    fn forget(&self, _: bool, _: &mut RequestState, headers: &mut HeaderMap) {
        headers.insert(self.name.clone(), HeaderValue::from_static(""));
        cache_control::make_private(headers, self.name.as_str());
    }

    fn new_session(&self) -> Option<u64> {
        self.tokens.life().new_session()
    }

    fn is_dated(&self) -> bool {
        self.tokens.life().is_dated()
    }

    fn idle_for(&self) -> Option<Duration> {
        self.tokens.life().idle_for()
    }

    fn carrier(&self) -> Option<String> {
        Some(format!("the header {:?}", self.name.as_str()))
    }

    fn hop(&self, to: &BackendId) -> Option<HeaderValue> {
        HeaderValue::try_from(self.tokens.hop(to)?).ok()
    }

    fn is_hop(&self, value: &HeaderValue, pool: &ReadContext<'_>) -> bool {
        self.tokens.is_hop(value.as_bytes(), pool)
    }
}
