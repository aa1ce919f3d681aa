//! `Cookie`: a token in a cookie.

use std::{fmt, sync::Arc, time::Duration};

use http::{
    HeaderMap, HeaderValue,
    header::{COOKIE, SET_COOKIE},
};

use super::{parse, set_cookie};
use crate::{
    affinity::{
        BoundAffinity, Change, Commit, Conflict, Head, ReadContext, Reading, RequestState,
        SameSite, Secure, cache_control,
        request_state::{AffinityKey, StateEntry},
        token_codec::{TokenCodec, TokenLifetime, refuse},
        traits::sealed::Bind,
    },
    error::ConfigError,
    id::BackendId,
    token::KeyRing,
};

/// The pin in a cookie: the usual choice for browsers.
///
/// The first response of a session sets the cookie; every later request brings it back. Nothing is
/// kept on our side, and every gateway that has the keys understands it.
///
/// By default the cookie ends with the browser's session, and has the attributes `Path=/`,
/// `HttpOnly` and `SameSite=Lax`, and `Secure` when the request came over https by a trusted word
/// (see [`Peer`](crate::Peer)). It is taken out of the request before a backend sees it.
///
/// Dates inside a sealed token are wall-clock dates, good on every gateway; see
/// [`clock_skew`](Self::clock_skew) for gateways whose clocks differ.
///
/// # Example
///
/// ```
/// use std::time::Duration;
/// use tower_sticky::{KeyRing, affinity::{Cookie, SameSite, Secure}};
///
/// let keys = KeyRing::generate()?; // in production KeyRing::from_env("STICKY_KEY")
/// let cookie = Cookie::sealed("__Host-sid", keys)
///     .secure(Secure::Always)
///     .same_site(SameSite::Strict)
///     .idle_timeout(Duration::from_secs(30 * 60))
///     .absolute_timeout(Duration::from_secs(8 * 3600));
/// # Ok::<(), tower_sticky::ConfigError>(())
/// ```
#[derive(Clone)]
pub struct Cookie {
    attributes: set_cookie::Attributes,
    life: TokenLifetime,
    permanent: bool,
    forward: bool,
    conflict: Conflict,
}

impl Cookie {
    /// A cookie that holds the backend's id as it is, as HAProxy's `cookie … insert` does.
    ///
    /// Readable and forgeable: whoever can send a cookie can choose a backend. No timeouts, and
    /// parallel requests of a session whose backend is gone may be moved to different ones, since
    /// nothing tells sessions apart. Prefer [`sealed`](Self::sealed).
    pub fn plain(name: impl Into<String>) -> Self {
        Self::new(name.into(), None)
    }

    /// A cookie that holds a sealed token: authenticated and encrypted, bound to this pool and this
    /// name, with dates inside. Two clients of one backend get different tokens.
    pub fn sealed(name: impl Into<String>, keys: KeyRing) -> Self {
        Self::new(name.into(), Some(keys))
    }

    fn new(name: String, keys: Option<KeyRing>) -> Self {
        Self {
            attributes: set_cookie::Attributes::new(name),
            life: TokenLifetime::new(keys),
            permanent: false,
            forward: false,
            conflict: Conflict::default(),
        }
    }

    /// Ends a session that has sent no request for this long, in whole seconds, checked on our side.
    /// The token is written anew once a quarter of it has passed. Only for sealed cookies.
    #[must_use]
    pub fn idle_timeout(mut self, timeout: Duration) -> Self {
        self.life.idle = Some(timeout);
        self
    }

    /// Ends a session this long after it began, in whole seconds, checked on our side. Only for
    /// sealed cookies.
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

    /// Makes the cookie outlive the browser's session: `Max-Age` is what is left of the absolute
    /// timeout, which must be set.
    #[must_use]
    pub fn permanent(mut self) -> Self {
        self.permanent = true;
        self
    }

    /// The cookie attribute `Path`; default `/`. A request outside of it, which the client does not send
    /// the cookie with, is served without it and gets none. Where a router strips a part of the path, as
    /// Axum's `nest` does, the path that the client asked for counts (with the feature `axum`).
    #[must_use]
    pub fn path(mut self, path: impl Into<String>) -> Self {
        self.attributes.path = path.into();
        self
    }

    /// The cookie attribute `Domain`; default none, which means this host only.
    #[must_use]
    pub fn domain(mut self, domain: impl Into<String>) -> Self {
        self.attributes.domain = Some(domain.into());
        self
    }

    /// The cookie attribute `SameSite`; default `Lax`.
    #[must_use]
    pub fn same_site(mut self, same_site: SameSite) -> Self {
        self.attributes.same_site = same_site;
        self
    }

    /// When the cookie has the attribute `Secure`; default [`Secure::Auto`].
    #[must_use]
    pub fn secure(mut self, secure: Secure) -> Self {
        self.attributes.secure = secure;
        self
    }

    /// The cookie attribute `HttpOnly`; default `true`.
    #[must_use]
    pub fn http_only(mut self, http_only: bool) -> Self {
        self.attributes.http_only = http_only;
        self
    }

    /// The cookie attribute `Partitioned` (CHIPS); default `false`.
    #[must_use]
    pub fn partitioned(mut self, partitioned: bool) -> Self {
        self.attributes.partitioned = partitioned;
        self
    }

    /// Whether backends see our cookie; default `false`.
    #[must_use]
    pub fn forward(mut self, forward: bool) -> Self {
        self.forward = forward;
        self
    }

    /// What happens when a backend sets a cookie of this name; default [`Conflict::Replace`].
    #[must_use]
    pub fn conflict(mut self, conflict: Conflict) -> Self {
        self.conflict = conflict;
        self
    }

    fn check(&self) -> Result<(), ConfigError> {
        self.attributes.check()?;
        let carrier = format!("the cookie {:?}", self.attributes.name);
        self.life.check().map_err(|why| refuse(&carrier, &why))?;
        if self.permanent && self.life.absolute.is_none() {
            return Err(refuse(
                &carrier,
                "a permanent cookie needs an absolute timeout, which becomes its Max-Age",
            ));
        }
        Ok(())
    }
}

impl fmt::Debug for Cookie {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Cookie")
            .field("name", &self.attributes.name)
            .field("sealed", &self.life.keys.is_some())
            .finish_non_exhaustive()
    }
}

impl Bind for Cookie {
    fn bind(&self, pool: &str) -> Result<Arc<dyn BoundAffinity>, ConfigError> {
        self.check()?;
        let name = &self.attributes.name;
        Ok(Arc::new(Bound {
            tokens: TokenCodec::new(self.life.clone(), "cookie", pool, name),
            name: parse::Name::new(name),
            template: self.attributes.template(),
            options: self.clone(),
        }))
    }
}

/// Whether `path` is within that of a cookie (RFC 6265, section 5.1.4).
pub(super) fn is_within(path: &str, cookie: &str) -> bool {
    path.strip_prefix(cookie)
        .is_some_and(|rest| rest.is_empty() || cookie.ends_with('/') || rest.starts_with('/'))
}

#[derive(Debug)]
pub(super) struct Bound {
    options: Cookie,
    tokens: TokenCodec,
    name: parse::Name,
    template: cookie::Cookie<'static>,
}

impl BoundAffinity for Bound {
    fn read(&self, request: &Head<'_>, pool: &mut ReadContext<'_>) -> Reading {
        let mut reading = Reading::default();
        let path = &self.options.attributes.path;
        if path != "/" && !is_within(request.client_path(), path) {
            pool.notes.push(AffinityKey::new(self), StateEntry::Outside);
            return reading;
        }
        let mut cookies = parse::Cookies::new(request.headers);
        while let Some(value) = cookies.next(&self.name) {
            reading.found = !self.options.forward;
            reading.sole = cookies.is_sole();
            let usable = self.tokens.read(value, pool, &mut reading);
            if usable && (reading.sole || !self.tokens.have_epochs()) {
                break;
            }
        }
        reading
    }

    fn strip(&self, reading: &Reading, _: &mut ReadContext<'_>, headers: &mut HeaderMap) {
        if self.options.forward {
            return;
        }
        if reading.sole {
            headers.remove(COOKIE);
            return;
        }
        parse::remove(headers, &self.name);
    }

    fn respond(
        &self,
        commit: &Commit<'_>,
        notes: &mut RequestState,
        headers: &mut HeaderMap,
    ) -> bool {
        if !notes.is_empty() && self.is_outside(notes) {
            return false;
        }
        let name = &self.options.attributes.name;
        if headers.contains_key(SET_COOKIE) && set_cookie::sets(headers, name) {
            match self.options.conflict {
                Conflict::Preserve => return false,
                Conflict::Replace => set_cookie::drop_named(headers, name),
            }
        }
        if commit.change == Change::Keep {
            return false;
        }
        let field = self.tokens.write(commit).and_then(|written| {
            let max_age = written.left.filter(|_| self.options.permanent);
            self.field(written.token, max_age, commit.https)
        });
        let Some(field) = field else {
            tracing::error!(cookie = name, "no token could be made; the session is not pinned");
            return false;
        };
        headers.append(SET_COOKIE, field);
        cache_control::make_private(headers, SET_COOKIE.as_str());
        true
    }

    fn forget(&self, https: bool, _: &mut RequestState, headers: &mut HeaderMap) {
        set_cookie::drop_named(headers, &self.options.attributes.name);
        if let Some(field) = self.field(String::new(), Some(Duration::ZERO), https) {
            headers.append(SET_COOKIE, field);
            cache_control::make_private(headers, SET_COOKIE.as_str());
        }
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
        Some(format!("the cookie {:?}", self.options.attributes.name))
    }

    fn hop(&self, to: &BackendId) -> Option<HeaderValue> {
        HeaderValue::try_from(self.tokens.hop(to)?).ok()
    }

    fn is_hop(&self, value: &HeaderValue, pool: &ReadContext<'_>) -> bool {
        self.tokens.is_hop(value.as_bytes(), pool)
    }
}

impl Bound {
    /// Whether the request is one that the client does not send this cookie with.
    fn is_outside(&self, notes: &RequestState) -> bool {
        let outside = |note: &StateEntry| matches!(note, StateEntry::Outside).then_some(());
        notes.find(AffinityKey::new(self), outside).is_some()
    }

    fn field(&self, value: String, max_age: Option<Duration>, https: bool) -> Option<HeaderValue> {
        self.options.attributes.header(&self.template, value, max_age, https)
    }
}
