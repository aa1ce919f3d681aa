//! The pin in a cookie.

use std::{fmt, sync::Arc, time::Duration};

use http::{
    HeaderMap, HeaderValue,
    header::{COOKIE, SET_COOKIE},
};

use super::{
    BoundAffinity, Change, Commit, Conflict, Head, Look, Reading, SameSite, Secure, cache_control,
    scan, sealed::Bind, set_cookie,
};
use crate::{
    BackendId, ConfigError, KeyRing, Reason,
    backend::MAX_ID_LEN,
    clock::unix_millis,
    token::{self, Context, Pin, Unusable},
};

/// How far a token's dates may lie in the future: gateways' clocks differ.
const SKEW_SECONDS: u64 = 300;

/// The pin in a cookie: the usual choice for browsers.
///
/// The first response of a session sets the cookie; every later request brings it back. Nothing is
/// kept on our side, and every gateway that has the keys understands it.
///
/// By default the cookie ends with the browser's session, and has the attributes `Path=/`,
/// `HttpOnly` and `SameSite=Lax`, and `Secure` when the request came over https by a trusted word
/// (see [`Peer`](crate::Peer)). It is taken out of the request before a backend sees it.
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
    keys: Option<KeyRing>,
    permanent: bool,
    idle: Option<Duration>,
    absolute: Option<Duration>,
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
            keys,
            permanent: false,
            idle: None,
            absolute: None,
            forward: false,
            conflict: Conflict::default(),
        }
    }

    /// Ends a session that has sent no request for this long, in whole seconds, checked on our side.
    /// The token is written anew once a quarter of it has passed. Only for sealed cookies.
    #[must_use]
    pub fn idle_timeout(mut self, timeout: Duration) -> Self {
        self.idle = Some(timeout);
        self
    }

    /// Ends a session this long after it began, in whole seconds, checked on our side. Only for
    /// sealed cookies.
    #[must_use]
    pub fn absolute_timeout(mut self, timeout: Duration) -> Self {
        self.absolute = Some(timeout);
        self
    }

    /// Makes the cookie outlive the browser's session: `Max-Age` is what is left of the absolute
    /// timeout, which must be set.
    #[must_use]
    pub fn permanent(mut self) -> Self {
        self.permanent = true;
        self
    }

    /// The cookie attribute `Path`; default `/`.
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
        let refuse = |why: &str| {
            Err(ConfigError::new(format!("the cookie {:?}: {why}", self.attributes.name)))
        };
        if self.keys.is_none() && (self.idle.is_some() || self.absolute.is_some()) {
            return refuse(
                "a plain cookie has no dates, so it cannot have timeouts; use a sealed one",
            );
        }
        if self.permanent && self.absolute.is_none() {
            return refuse(
                "a permanent cookie needs an absolute timeout, which becomes its Max-Age",
            );
        }
        for (name, timeout) in [("idle", self.idle), ("absolute", self.absolute)] {
            if timeout.is_some_and(|timeout| timeout < Duration::from_secs(1)) {
                return refuse(&format!("the {name} timeout must be at least one second"));
            }
        }
        Ok(())
    }
}

impl fmt::Debug for Cookie {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Cookie")
            .field("name", &self.attributes.name)
            .field("sealed", &self.keys.is_some())
            .finish_non_exhaustive()
    }
}

impl Bind for Cookie {
    fn bind(&self, pool: &str) -> Result<Arc<dyn BoundAffinity>, ConfigError> {
        self.check()?;
        Ok(Arc::new(Bound {
            context: Context::new("cookie", pool, &self.attributes.name),
            hop: Context::new("hop", pool, &self.attributes.name),
            name: scan::Name::new(&self.attributes.name),
            template: self.attributes.template(),
            options: self.clone(),
        }))
    }
}

#[derive(Debug)]
struct Bound {
    options: Cookie,
    name: scan::Name,
    context: Context,
    hop: Context,
    template: cookie::Cookie<'static>,
}

/// A good token.
struct Usable {
    pin: Pin,
    /// Of its backend, in the pool's index.
    position: usize,
    /// Whether it should be written anew.
    refresh: bool,
}

impl BoundAffinity for Bound {
    fn read(&self, request: &Head<'_>, pool: &Look<'_>) -> Reading {
        let mut reading = Reading::default();
        let mut cookies = scan::Cookies::new(request.headers);
        while let Some(value) = cookies.next(&self.name) {
            reading.found = !self.options.forward;
            reading.sole = cookies.is_sole();
            match self.pin(value, pool) {
                Ok(usable) => {
                    let Usable { pin, position, refresh } = usable;
                    return Reading { pin: Some(pin), position, refresh, reason: None, ..reading };
                }
                Err(reason) => reading.reason = reading.reason.or(Some(reason)),
            }
        }
        reading
    }

    fn strip(&self, reading: &Reading, headers: &mut HeaderMap) {
        if reading.sole {
            headers.remove(COOKIE);
            return;
        }
        scan::remove(headers, &self.name);
    }

    fn respond(&self, commit: &Commit<'_>, headers: &mut HeaderMap) -> bool {
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
        let Some(field) = self.field(commit) else {
            tracing::error!(cookie = name, "no token could be made; the session is not pinned");
            return false;
        };
        headers.append(SET_COOKIE, field);
        cache_control::make_private(headers);
        true
    }

    fn hop(&self, to: &BackendId) -> Option<HeaderValue> {
        let Some(keys) = &self.options.keys else {
            return HeaderValue::from_str(to.as_str()).ok();
        };
        let token = token::seal(keys, &self.hop, &Pin::plain(to.tag()))?;
        HeaderValue::try_from(token).ok()
    }

    fn is_hop(&self, value: &HeaderValue, here: &BackendId, pool: &Look<'_>) -> bool {
        let Some(keys) = &self.options.keys else {
            return value == here.as_str();
        };
        let now = unix_millis(pool.clock) / 1000;
        token::open(keys, &self.hop, value.as_bytes(), now)
            .is_ok_and(|opened| opened.pin.backend == here.tag())
    }
}

impl Bound {
    /// The pin that a cookie's value stands for.
    fn pin(&self, value: &[u8], pool: &Look<'_>) -> Result<Usable, Reason> {
        let Some(keys) = &self.options.keys else {
            if value.is_empty() || value.len() > MAX_ID_LEN {
                return Err(Reason::Malformed);
            }
            let position = pool.index.position_of(value).ok_or(Reason::Unknown)?;
            let pin = Pin::plain(pool.index.states()[position].tag);
            return Ok(Usable { pin, position, refresh: false });
        };
        let now = unix_millis(pool.clock) / 1000;
        let opened = token::open(keys, &self.context, value, now).map_err(|error| match error {
            Unusable::Malformed => Reason::Malformed,
            Unusable::Forged => Reason::Forged,
        })?;
        let pin = opened.pin;
        let (issued, seen) = (u64::from(pin.issued), u64::from(pin.seen));
        if issued.max(seen) > now + SKEW_SECONDS {
            return Err(Reason::Malformed);
        }
        let (age, idle) = (now.saturating_sub(issued), now.saturating_sub(seen));
        if self.options.absolute.is_some_and(|timeout| age >= timeout.as_secs()) {
            return Err(Reason::ExpiredAbsolute);
        }
        if self.options.idle.is_some_and(|timeout| idle >= timeout.as_secs()) {
            return Err(Reason::ExpiredIdle);
        }
        let position = pool.index.position(pin.backend).ok_or(Reason::Unknown)?;
        // A quarter of the idle timeout, rounded up, so that it is never due at once.
        let due = self.options.idle.is_some_and(|timeout| idle >= timeout.as_secs().div_ceil(4));
        Ok(Usable { pin, position, refresh: due || opened.old_key })
    }

    /// The `Set-Cookie` field for what has become of the pin.
    fn field(&self, commit: &Commit<'_>) -> Option<HeaderValue> {
        let Some(keys) = &self.options.keys else {
            let id = commit.backend.id.as_str().to_owned();
            return self.options.attributes.header(&self.template, id, None, commit.https);
        };
        let millis = unix_millis(commit.clock);
        let now = (millis / 1000) as u32;
        let backend = commit.backend.tag;
        let pin = match (commit.change, commit.pin) {
            (Change::Refresh | Change::Keep, Some(pin)) => Pin { seen: now, ..pin },
            (Change::Move, Some(pin)) => {
                Pin { backend, seen: now, epoch: (pin.epoch + 1).max(millis), ..pin }
            }
            (Change::Assign, _) | (_, None) => {
                let session = token::new_session(keys);
                Pin { backend, session, epoch: millis, issued: now, seen: now }
            }
        };
        let token = token::seal(keys, &self.context, &pin)?;
        let left = |timeout: Duration| {
            let age = Duration::from_secs(u64::from(now.saturating_sub(pin.issued)));
            timeout.saturating_sub(age)
        };
        let max_age = self.options.absolute.filter(|_| self.options.permanent).map(left);
        self.options.attributes.header(&self.template, token, max_age, commit.https)
    }
}
