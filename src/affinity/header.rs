//! `Header`: a token in a header.

use std::{fmt, sync::Arc};

use http::{HeaderMap, HeaderName, HeaderValue};

use super::{
    BoundAffinity, Change, Commit, Findings, Head, ReadContext, Reading, RequestState, Strip,
    cache_control,
    token_codec::TokenCodec,
    token_options::{TokenOptions, invalid, token_setters},
    traits::sealed::Bind,
};
use crate::{error::ConfigError, token::KeyRing};

/// The token in a header, for clients without a cookie jar, such as programs and gRPC clients.
///
/// The first response of a session has the header. The client sends its value unchanged with every
/// later request of the session, and replaces it when a response has a new one. The header is removed
/// from the request before it reaches a backend, and a header of this name in the backend's response is
/// dropped. Of several values the first valid one counts.
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
    tokens: TokenOptions,
    forward: bool,
}

impl Header {
    /// A header that holds the backend's id in plain text: clients can read and forge it. It has no
    /// timeouts. Prefer [`sealed`](Self::sealed).
    pub fn plain(name: impl Into<String>) -> Self {
        Self { name: name.into(), tokens: TokenOptions::new(None), forward: false }
    }

    /// A header that holds a sealed token, with all the properties of
    /// [`Cookie::sealed`](crate::affinity::Cookie::sealed).
    pub fn sealed(name: impl Into<String>, keys: KeyRing) -> Self {
        Self { name: name.into(), tokens: TokenOptions::new(Some(keys)), forward: false }
    }

    token_setters! {
        /// Ends a session that has sent no request for this long, in whole seconds. The token is
        /// refreshed when a quarter of that time has passed. Only for sealed tokens.
        idle_timeout,

        /// Ends a session this long after it began, in whole seconds. Only for sealed tokens.
        absolute_timeout,
    }

    /// Whether the header is forwarded to backends; default `false`.
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
            .field("sealed", &self.tokens.keys.is_some())
            .finish_non_exhaustive()
    }
}

/// Parses a header name, and rejects those that HTTP itself uses.
pub(crate) fn header_name(name: &str) -> Result<HeaderName, ConfigError> {
    let carrier = format!("the header {name:?}");
    let parsed = HeaderName::from_bytes(name.as_bytes())
        .map_err(|_| invalid(&carrier, "it is not a header name; use one such as \"x-sticky\""))?;
    // A token in one of these would break the framing, routing or cookies of every request.
    let reserved = [
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
    if reserved.contains(&parsed.as_str()) {
        return Err(invalid(&carrier, "HTTP itself uses it; choose a header of your own"));
    }
    Ok(parsed)
}

impl Bind for Header {
    fn bind(&self, pool: &str) -> Result<Arc<dyn BoundAffinity>, ConfigError> {
        let name = header_name(&self.name)?;
        self.tokens.check(&format!("the header {:?}", self.name))?;
        let tokens = TokenCodec::new(self.tokens.clone(), "header", pool, name.as_str());
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
    fn read(&self, head: &Head<'_>, cx: &mut ReadContext<'_>) -> Reading {
        let mut reading = Reading::default();
        for value in head.headers.get_all(&self.name) {
            reading.strip = if self.forward { Strip::Nothing } else { Strip::Tokens };
            let is_valid = self.tokens.read(value.as_bytes(), cx, &mut reading);
            if is_valid && !self.tokens.is_sealed() {
                break;
            }
        }
        reading
    }

    fn inspect(&self, head: &Head<'_>, cx: &mut ReadContext<'_>, found: &mut Findings) -> Reading {
        let carrier = format!("header {}", self.name);
        for value in head.headers.get_all(&self.name) {
            found.push(self.tokens.inspect(&carrier, value.as_bytes(), cx));
        }
        self.read(head, cx)
    }

    fn strip(&self, _: &Reading, _: &mut ReadContext<'_>, headers: &mut HeaderMap) {
        if !self.forward {
            headers.remove(&self.name);
        }
    }

    fn save(&self, commit: &Commit<'_>, _: &mut RequestState, headers: &mut HeaderMap) -> bool {
        headers.remove(&self.name);
        if commit.change == Change::Keep {
            return false;
        }
        let token =
            self.tokens.write(commit).and_then(|issued| HeaderValue::try_from(issued.token).ok());
        let Some(token) = token else {
            tracing::error!(header = %self.name, "no token could be made; the session is not pinned");
            return false;
        };
        headers.insert(self.name.clone(), token);
        cache_control::make_private(headers, self.name.as_str());
        true
    }

    fn saves_nothing(&self, headers: &HeaderMap) -> bool {
        !headers.contains_key(&self.name)
    }

    /// Sends an empty value, so that the client has no token to send.
    fn clear(&self, _: bool, _: &mut RequestState, headers: &mut HeaderMap) {
        headers.insert(self.name.clone(), HeaderValue::from_static(""));
        cache_control::make_private(headers, self.name.as_str());
    }

    fn carrier(&self) -> Option<String> {
        Some(format!("the header {:?}", self.name.as_str()))
    }

    fn tokens(&self) -> Option<&TokenCodec> {
        Some(&self.tokens)
    }
}
