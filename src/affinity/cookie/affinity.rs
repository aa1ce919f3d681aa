//! `Cookie`: a token in a cookie.

use std::{
    fmt,
    sync::Arc,
    time::{Duration, SystemTime},
};

use http::{
    HeaderMap, HeaderValue,
    header::{COOKIE, SET_COOKIE},
};

use super::{parse, set_cookie};
use crate::{
    affinity::{
        BoundAffinity, Change, Commit, Conflict, Head, ReadContext, Reading, RequestState,
        SameSite, Secure, Strip, cache_control,
        found::Findings,
        request_state::{AffinityKey, StateEntry},
        token_codec::TokenCodec,
        token_options::{TokenOptions, invalid, token_setters},
        traits::sealed::Bind,
    },
    error::ConfigError,
    token::KeyRing,
};

/// The token in a cookie: the usual choice for browsers.
///
/// The first response of a session sets the cookie, and every later request has it. The gateway stores
/// nothing: every gateway with the keys can read the cookie.
///
/// By default the cookie ends with the browser's session, and has the attributes `Path=/`,
/// `HttpOnly` and `SameSite=Lax`, and `Secure` when the client used https (see
/// [`Peer`](crate::Peer)). It is removed from the request before it reaches a backend.
///
/// The timestamps in a sealed token are wall-clock times, which are valid on every gateway; see
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
///
/// Recipes with real clients: [`websocket`](crate::guide::websocket), [`signalr`](crate::guide::signalr),
/// [`socket_io`](crate::guide::socket_io).
#[derive(Clone)]
pub struct Cookie {
    attributes: set_cookie::Attributes,
    tokens: TokenOptions,
    permanent: bool,
    forward: bool,
    conflict: Conflict,
}

impl Cookie {
    /// A cookie that holds the backend's id in plain text, as HAProxy's `cookie … insert` does.
    ///
    /// Clients can read and forge it, so any client can choose a backend. It has no timeouts. It does not
    /// identify the session, so parallel requests of a session whose backend is gone may move to
    /// different backends. Prefer [`sealed`](Self::sealed).
    pub fn plain(name: impl Into<String>) -> Self {
        Self::new(name.into(), None)
    }

    /// A cookie that holds a sealed token: authenticated and encrypted, bound to this pool and this
    /// name, with timestamps. Two clients of one backend get different tokens.
    pub fn sealed(name: impl Into<String>, keys: KeyRing) -> Self {
        Self::new(name.into(), Some(keys))
    }

    fn new(name: String, keys: Option<KeyRing>) -> Self {
        Self {
            attributes: set_cookie::Attributes::new(name),
            tokens: TokenOptions::new(keys),
            permanent: false,
            forward: false,
            conflict: Conflict::default(),
        }
    }

    token_setters! {
        /// Ends a session that has sent no request for this long, in whole seconds, checked by the
        /// gateway. The token is refreshed when a quarter of that time has passed. Only for sealed
        /// cookies.
        idle_timeout,

        /// Ends a session this long after it began, in whole seconds, checked by the gateway. Only for
        /// sealed cookies.
        absolute_timeout,
    }

    /// Makes the cookie outlive the browser's session: `Max-Age` is the remaining time of the absolute
    /// timeout, which must be set.
    #[must_use]
    pub fn permanent(mut self) -> Self {
        self.permanent = true;
        self
    }

    /// The cookie attribute `Path`; default `/`. A request outside of it, with which the
    /// client does not send the cookie, is served without a session, and its response sets no cookie.
    /// When a router strips a prefix of the path, as Axum's `nest` does, the path that the client
    /// requested counts (with the feature `axum`).
    ///
    /// With an empty path there is no such attribute: the browser limits the cookie to the directory of
    /// the request then (RFC 6265, section 5.1.4), while the session applies to all paths.
    #[must_use]
    pub fn path(mut self, path: impl Into<String>) -> Self {
        self.attributes.path = path.into();
        self
    }

    /// Whether the attribute `Expires` is written beside `Max-Age`, for clients that do not know the latter;
    /// default `false`. Only for [permanent](Self::permanent) cookies.
    #[must_use]
    pub fn expires(mut self, expires: bool) -> Self {
        self.attributes.expires = expires;
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

    /// Whether the cookie is forwarded to backends; default `false`.
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
        self.tokens.check(&carrier)?;
        if self.permanent && self.tokens.absolute_timeout.is_none() {
            return Err(invalid(
                &carrier,
                "a permanent cookie needs an absolute timeout, which becomes its Max-Age",
            ));
        }
        if self.attributes.expires && !self.permanent {
            return Err(invalid(
                &carrier,
                "Expires needs a permanent cookie, which has a lifetime",
            ));
        }
        Ok(())
    }
}

impl fmt::Debug for Cookie {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Cookie")
            .field("name", &self.attributes.name)
            .field("sealed", &self.tokens.keys.is_some())
            .finish_non_exhaustive()
    }
}

impl Bind for Cookie {
    fn bind(&self, pool: &str) -> Result<Arc<dyn BoundAffinity>, ConfigError> {
        self.check()?;
        let name = &self.attributes.name;
        Ok(Arc::new(Bound {
            tokens: TokenCodec::new(self.tokens.clone(), "cookie", pool, name),
            name: parse::Name::new(name),
            template: self.attributes.template(),
            options: self.clone(),
        }))
    }
}

/// Whether a request for `path` has a cookie with the path `cookie_path` (RFC 6265, section 5.1.4).
pub(super) fn path_matches(path: &str, cookie_path: &str) -> bool {
    path.strip_prefix(cookie_path)
        .is_some_and(|rest| rest.is_empty() || cookie_path.ends_with('/') || rest.starts_with('/'))
}

#[derive(Debug)]
pub(super) struct Bound {
    options: Cookie,
    tokens: TokenCodec,
    name: parse::Name,
    template: cookie::Cookie<'static>,
}

impl BoundAffinity for Bound {
    fn read(&self, head: &Head<'_>, cx: &mut ReadContext<'_>) -> Reading {
        let mut reading = Reading::default();
        let path = &self.options.attributes.path;
        if !path.is_empty() && path != "/" && !path_matches(head.client_path(), path) {
            cx.state.push(AffinityKey::new(self), StateEntry::OutsidePath);
            return reading;
        }
        let mut cookies = parse::Cookies::new(head.headers);
        while let Some(value) = cookies.next(&self.name) {
            let only_value = cookies.is_only_value();
            reading.strip = match (self.options.forward, only_value) {
                (true, _) => Strip::Nothing,
                (false, true) => Strip::Header,
                (false, false) => Strip::Tokens,
            };
            let is_valid = self.tokens.read(value, cx, &mut reading);
            if is_valid && (only_value || !self.tokens.is_sealed()) {
                break;
            }
        }
        reading
    }

    fn inspect(&self, head: &Head<'_>, cx: &mut ReadContext<'_>, found: &mut Findings) -> Reading {
        let carrier = format!("cookie {}", self.options.attributes.name);
        let mut cookies = parse::Cookies::new(head.headers);
        while let Some(value) = cookies.next(&self.name) {
            found.push(self.tokens.inspect(&carrier, value, cx));
        }
        self.read(head, cx)
    }

    fn strip(&self, reading: &Reading, _: &mut ReadContext<'_>, headers: &mut HeaderMap) {
        if self.options.forward {
            return;
        }
        if reading.strip == Strip::Header {
            headers.remove(COOKIE);
            return;
        }
        parse::remove(headers, &self.name);
    }

    fn save(&self, commit: &Commit<'_>, state: &mut RequestState, headers: &mut HeaderMap) -> bool {
        if !state.is_empty() && self.is_outside(state) {
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
        let field = self.tokens.write(commit).and_then(|issued| {
            let max_age = issued.lifetime.filter(|_| self.options.permanent);
            self.set_cookie(issued.token, max_age, commit.https, commit.clock.now())
        });
        let Some(field) = field else {
            tracing::error!(cookie = name, "no token could be made; the session is not pinned");
            return false;
        };
        headers.append(SET_COOKIE, field);
        cache_control::make_private(headers, SET_COOKIE.as_str());
        true
    }

    fn saves_nothing(&self, headers: &HeaderMap) -> bool {
        !headers.contains_key(SET_COOKIE)
    }

    fn clear(&self, https: bool, _: &mut RequestState, headers: &mut HeaderMap) {
        set_cookie::drop_named(headers, &self.options.attributes.name);
        if let Some(field) =
            self.set_cookie(String::new(), Some(Duration::ZERO), https, SystemTime::UNIX_EPOCH)
        {
            headers.append(SET_COOKIE, field);
            cache_control::make_private(headers, SET_COOKIE.as_str());
        }
    }

    fn carrier(&self) -> Option<String> {
        Some(format!("the cookie {:?}", self.options.attributes.name))
    }

    fn tokens(&self) -> Option<&TokenCodec> {
        Some(&self.tokens)
    }
}

impl Bound {
    /// Whether the request is outside of the cookie's path.
    fn is_outside(&self, state: &RequestState) -> bool {
        let outside = |entry: &StateEntry| matches!(entry, StateEntry::OutsidePath).then_some(());
        state.find(AffinityKey::new(self), outside).is_some()
    }

    fn set_cookie(
        &self,
        value: String,
        max_age: Option<Duration>,
        https: bool,
        now: SystemTime,
    ) -> Option<HeaderValue> {
        self.options.attributes.header(&self.template, value, max_age, https, now)
    }
}
