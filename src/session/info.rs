//! `SessionInfo`, which a backend receives about the session of a request.

use http::{Extensions, HeaderMap, HeaderName, HeaderValue};

use crate::{
    id::{BackendId, SessionId},
    outcome::Verdict,
};

const SESSION: HeaderName = HeaderName::from_static("x-sticky-session");
const EPOCH: HeaderName = HeaderName::from_static("x-sticky-epoch");
const OUTCOME: HeaderName = HeaderName::from_static("x-sticky-outcome");
const BACKEND: HeaderName = HeaderName::from_static("x-sticky-backend");
const FROM: HeaderName = HeaderName::from_static("x-sticky-from");
const KEYED: HeaderName = HeaderName::from_static("x-sticky-keyed");
const REPLICAS: HeaderName = HeaderName::from_static("x-sticky-replicas");

const ROUTE: HeaderName = HeaderName::from_static("x-sticky-route");

const ALL: [HeaderName; 8] = [SESSION, EPOCH, OUTCOME, BACKEND, FROM, KEYED, REPLICAS, ROUTE];

/// Information for a backend about the session of a request, with which it can check whether its own
/// data of the session is current.
///
/// With [`session_extensions`](crate::StickyLayer::session_extensions) it is in the extensions of the
/// request; with [`session_headers`](crate::StickyLayer::session_headers) it is in headers, which a
/// backend in another process reads with [`from_headers`](Self::from_headers):
///
/// | header | what |
/// |---|---|
/// | `x-sticky-session` | [`id`](Self::id), 16 hexadecimal digits |
/// | `x-sticky-epoch` | [`epoch`](Self::epoch), decimal |
/// | `x-sticky-outcome` | [`verdict`](Self::verdict), as text |
/// | `x-sticky-backend` | [`backend`](Self::backend) |
/// | `x-sticky-from` | [`from`](Self::from) |
/// | `x-sticky-keyed` | `1` when it [is](Self::is_keyed) |
/// | `x-sticky-replicas` | [`replicas`](Self::replicas), with commas between them |
/// | `x-sticky-route` | [`route`](Self::route) |
///
/// # Example
///
/// ```
/// use tower_sticky::{SessionInfo, Verdict};
///
/// let mut request = http::Request::new(());
/// request.headers_mut().insert("x-sticky-session", "00000000000000ff".parse()?);
/// request.headers_mut().insert("x-sticky-epoch", "1800000000000".parse()?);
/// request.headers_mut().insert("x-sticky-outcome", "moved".parse()?);
/// request.headers_mut().insert("x-sticky-backend", "b".parse()?);
/// request.headers_mut().insert("x-sticky-from", "a".parse()?);
///
/// let info = SessionInfo::from_headers(request.headers()).expect("the gateway sent it");
/// assert_eq!(info.verdict(), Verdict::Moved);
/// assert_eq!(info.from().map(|id| id.as_str()), Some("a"));
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SessionInfo {
    pub(crate) id: Option<SessionId>,
    pub(crate) epoch: Option<u64>,
    pub(crate) verdict: Verdict,
    pub(crate) backend: BackendId,
    pub(crate) from: Option<BackendId>,
    pub(crate) keyed: bool,
    pub(crate) replicas: Vec<BackendId>,
    pub(crate) route: Option<String>,
}

impl SessionInfo {
    /// The information in a request's extensions.
    pub fn of(extensions: &Extensions) -> Option<&Self> {
        extensions.get()
    }

    /// The information in a request's headers; `None` when it is missing or malformed. Trust
    /// it only in requests from your own gateway.
    pub fn from_headers(headers: &HeaderMap) -> Option<Self> {
        let text = |name: HeaderName| headers.get(&name).map(|value: &HeaderValue| value.to_str());
        let verdict = text(OUTCOME)?.ok()?;
        let verdict = *Verdict::ALL.iter().find(|known| known.as_str() == verdict)?;
        let id = match text(SESSION) {
            Some(hex) => Some(SessionId::from_hex(hex.ok()?)?),
            None => None,
        };
        let epoch = match text(EPOCH) {
            Some(number) => Some(number.ok()?.parse().ok()?),
            None => None,
        };
        let backend = BackendId::new(text(BACKEND)?.ok()?).ok()?;
        let from = match text(FROM) {
            Some(id) => Some(BackendId::new(id.ok()?).ok()?),
            None => None,
        };
        let keyed = match text(KEYED) {
            Some(Ok("1")) => true,
            Some(_) => return None,
            None => false,
        };
        let replicas = match text(REPLICAS) {
            Some(ids) => ids.ok()?.split(',').map(|id| BackendId::new(id.trim()).ok()).collect(),
            None => Some(Vec::new()),
        }?;
        let route = match text(ROUTE) {
            Some(route) => Some(route.ok()?.to_owned()),
            None => None,
        };
        Some(Self { id, epoch, verdict, backend, from, keyed, replicas, route })
    }

    /// The session, which stays the same when it moves. `None` when sessions are not identified, as with
    /// a plain token, or when the application has not issued its id yet.
    pub fn id(&self) -> Option<SessionId> {
        self.id
    }

    /// A number that grows each time the session moves, to the Unix time in milliseconds, or by one if
    /// that is greater. Data of the session that a backend stored with a smaller number may be out of
    /// date. When a key routes the request, the number grows each time the owner of any key may change,
    /// on each gateway separately. `None` with plain tokens.
    pub fn epoch(&self) -> Option<u64> {
        self.epoch
    }

    /// What became of the request: [`Assigned`](Verdict::Assigned) for a new session,
    /// [`Pinned`](Verdict::Pinned), [`Moved`](Verdict::Moved), or [`Borrowed`](Verdict::Borrowed) when
    /// this backend serves it just this once.
    pub fn verdict(&self) -> Verdict {
        self.verdict
    }

    /// The id of the backend that receives the request.
    pub fn backend(&self) -> &BackendId {
        &self.backend
    }

    /// The backend that the session was pinned to, when this is another one and the pool still knows
    /// it.
    pub fn from(&self) -> Option<&BackendId> {
        self.from.as_ref()
    }

    /// Whether a key routes the request, as with
    /// [`affinity::Key`](crate::affinity::Key). Gateways then count the epoch separately, and two of them
    /// may send different epochs at the same time.
    pub fn is_keyed(&self) -> bool {
        self.keyed
    }

    /// The backends to which the session would go if this one failed, in that order: the next in the
    /// rank of its id that are up. As many as [`replicas`](crate::StickyLayer::replicas) says.
    pub fn replicas(&self) -> &[BackendId] {
        &self.replicas
    }

    /// What this backend puts into the ids of its sessions, when the affinity is a
    /// [`Route`](crate::affinity::Route).
    pub fn route(&self) -> Option<&str> {
        self.route.as_deref()
    }

    /// Writes it to headers.
    pub(crate) fn write(&self, headers: &mut HeaderMap) {
        // Removes headers of the client and of an earlier attempt.
        strip(headers);
        let mut set = |name: HeaderName, value: String| {
            if let Ok(value) = HeaderValue::try_from(value) {
                headers.insert(name, value);
            }
        };
        set(OUTCOME, self.verdict.as_str().to_owned());
        set(BACKEND, self.backend.as_str().to_owned());
        if let Some(id) = self.id {
            set(SESSION, id.to_string());
        }
        if let Some(epoch) = self.epoch {
            set(EPOCH, epoch.to_string());
        }
        if let Some(from) = &self.from {
            set(FROM, from.as_str().to_owned());
        }
        if self.keyed {
            set(KEYED, "1".to_owned());
        }
        if !self.replicas.is_empty() {
            let ids: Vec<&str> = self.replicas.iter().map(BackendId::as_str).collect();
            set(REPLICAS, ids.join(","));
        }
        if let Some(route) = &self.route {
            set(ROUTE, route.clone());
        }
    }
}

/// Removes all headers of this type.
pub(crate) fn strip(headers: &mut HeaderMap) {
    // Most requests have none of them, and one pass over the names is cheaper than eight lookups.
    if headers.keys().any(|name| name.as_str().starts_with("x-sticky-")) {
        for name in ALL {
            headers.remove(name);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id(id: &str) -> BackendId {
        BackendId::new(id).unwrap()
    }

    #[test]
    fn written_headers_are_read() {
        let info = SessionInfo {
            id: Some(SessionId::new(u64::MAX - 1)),
            epoch: Some(1 << 47),
            verdict: Verdict::Moved,
            backend: id("b"),
            from: Some(id("a")),
            keyed: true,
            replicas: vec![id("c"), id("d:80")],
            route: Some("c7abs7iswqd7s".to_owned()),
        };
        let mut headers = HeaderMap::new();
        info.write(&mut headers);
        assert_eq!(SessionInfo::from_headers(&headers), Some(info));
        strip(&mut headers);
        assert!(headers.is_empty());
    }

    #[test]
    fn absent_values_have_no_headers() {
        let info = SessionInfo {
            id: None,
            epoch: None,
            verdict: Verdict::Assigned,
            backend: id("b"),
            from: None,
            keyed: false,
            replicas: Vec::new(),
            route: None,
        };
        let mut headers = HeaderMap::new();
        info.write(&mut headers);
        assert_eq!(headers.len(), 2);
        assert_eq!(SessionInfo::from_headers(&headers), Some(info));
    }

    #[test]
    fn malformed_headers_are_rejected() {
        let good = [
            ("x-sticky-outcome", "pinned"),
            ("x-sticky-backend", "b"),
            ("x-sticky-session", "00000000000000ff"),
            ("x-sticky-epoch", "7"),
            ("x-sticky-replicas", "c, d"),
        ];
        let read = |name: &'static str, value: &'static str| {
            let mut headers = HeaderMap::new();
            for (known, good) in good {
                headers.insert(known, good.parse().unwrap());
            }
            headers.insert(name, value.parse().unwrap());
            SessionInfo::from_headers(&headers)
        };
        assert_eq!(read("x", "y").unwrap().replicas().len(), 2);
        for (name, bad) in [
            ("x-sticky-outcome", "happy"),
            ("x-sticky-backend", ""),
            ("x-sticky-session", "ff"),
            ("x-sticky-session", "+0000000000000ff"),
            ("x-sticky-epoch", "-1"),
            ("x-sticky-replicas", "c,,d"),
            ("x-sticky-from", "a b"),
            ("x-sticky-keyed", "yes"),
        ] {
            assert_eq!(read(name, bad), None, "{name}: {bad}");
        }
        assert_eq!(SessionInfo::from_headers(&HeaderMap::new()), None);
    }
}
