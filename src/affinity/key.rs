//! `Key`: routes a request by a hash of one of its values.

use std::{borrow::Cow, fmt, sync::Arc};

use http::{HeaderMap, HeaderName};

use super::{
    BoundAffinity, Head, Origin, ReadContext, Reading,
    cookie::parse,
    found::{FindingKind, Findings, Found},
    hashing::{HashOptions, Hashing, hash_setters},
    header::header_name,
    id_source::source_constructors,
    token_options::invalid,
    traits::sealed::Bind,
};
use crate::error::ConfigError;

/// Affinity by hash: a key of the request, for example a user id, chooses the backend by weighted
/// rendezvous hashing. It needs no state: every gateway chooses the same backend from the same pool.
///
/// Affinity is best effort. When a backend leaves, its sessions go to the next in their rank, and return
/// when it does. When a backend joins, it takes its share of the sessions of all others. No other session
/// moves. A backend that drains or has weight 0 is not in the rank, because a hash does not distinguish
/// old sessions from new ones. To keep sessions on their backends, put a [`Cookie`](crate::affinity::Cookie) before it in a [`Chain`](crate::affinity::Chain).
///
/// Of several values of a header, cookie or parameter the first counts; an empty value counts as missing.
/// A request without the key is routed by the next affinity of the chain, or else by the strategy.
///
/// # Security
///
/// Without a [`secret`](Self::secret) a client can compute which backend a key goes to, and can overload
/// one backend by choosing keys. A secret that the gateways share prevents this.
///
/// # Example
///
/// ```
/// use tower_sticky::affinity::Key;
///
/// let by_user = Key::header("x-user-id");
/// let by_tenant = Key::query("tenant");
/// let by_path = Key::from_fn(|head| {
///     head.uri().path().split('/').nth(1).map(|room| room.as_bytes().to_vec())
/// });
/// ```
#[derive(Clone)]
pub struct Key {
    source: Source,
    hashing: HashOptions,
}

#[derive(Clone)]
enum Source {
    Header(String),
    Cookie(String),
    Query(String),
    Function(Arc<Function>),
}

type Function = dyn Fn(&Head<'_>) -> Option<Vec<u8>> + Send + Sync;

impl Key {
    source_constructors! {
        /// The value of a request header, as it is.
        header(name) => Source::Header,

        /// The value of a cookie of the application, as it is.
        cookie(name) => Source::Cookie,

        /// The value of a parameter of the query, decoded
        /// (`application/x-www-form-urlencoded`, WHATWG URL standard).
        query(name) => Source::Query,
    }

    /// The result of `key` for a request extension.
    ///
    /// ```
    /// use tower_sticky::affinity::Key;
    ///
    /// #[derive(Clone)]
    /// struct Account(u64);
    /// let by_account = Key::extension(|account: &Account| account.0.to_be_bytes().to_vec());
    /// ```
    pub fn extension<T, F>(key: F) -> Self
    where
        T: Send + Sync + 'static,
        F: Fn(&T) -> Vec<u8> + Send + Sync + 'static,
    {
        Self::from_fn(move |head| head.extensions().get::<T>().map(&key))
    }

    /// The result of a function of the request's head; `None` or an empty value is a missing key.
    pub fn from_fn(key: impl Fn(&Head<'_>) -> Option<Vec<u8>> + Send + Sync + 'static) -> Self {
        Self::new(Source::Function(Arc::new(key)))
    }

    fn new(source: Source) -> Self {
        Self { source, hashing: HashOptions::default() }
    }

    hash_setters! {
        /// A secret that the gateways share, so that clients cannot compute which backend a key goes to.
        /// Changing it moves nearly all sessions.
        secret,

        /// Bounds the load of a backend to `factor` times its fair share, counted in requests in flight
        /// on this gateway (consistent hashing with bounded loads, Mirrokni, Thorup and Zadimoghaddam
        /// 2018): a key whose backend is above its bound goes to the next in its rank. At least 1.0; a usual
        /// value is 1.25. Default: no bound.
        ///
        /// In a chain, after a member that remembers pins, the bound applies to new sessions only, and
        /// parallel first requests of one key share one choice. Without such a member it applies to each
        /// request, so a key may alternate between the first and the next in its rank.
        balance_factor,

        /// Looks the backend up in a table instead of ranking all backends: for thousands of backends,
        /// where ranking takes microseconds. When the members change, about half a percent more sessions
        /// move than necessary, and the first request builds the table (1 ms, or 20 ms for the large
        /// one). All gateways must use the same table.
        maglev,
    }

    /// Hashes the key with XXH3 instead of SipHash-1-3, which is some nanoseconds faster. Clients can
    /// compute which backend a key goes to. Cannot be combined with a secret.
    #[must_use]
    pub fn unkeyed_xxh3(mut self) -> Self {
        self.hashing.unkeyed = true;
        self
    }
}

impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (kind, name) = match &self.source {
            Source::Header(name) => ("header", &**name),
            Source::Cookie(name) => ("cookie", &**name),
            Source::Query(name) => ("query", &**name),
            Source::Function(_) => ("function", ""),
        };
        f.debug_struct("Key")
            .field(kind, &name)
            .field("keyed", &self.hashing.secret.is_some())
            .finish()
    }
}

impl Bind for Key {
    fn bind(&self, _: &str) -> Result<Arc<dyn BoundAffinity>, ConfigError> {
        let source = match &self.source {
            Source::Header(name) => BoundSource::Header(header_name(name)?),
            Source::Cookie(name) | Source::Query(name) if name.is_empty() => {
                return Err(invalid("a key", "the name of its cookie or parameter is empty"));
            }
            Source::Cookie(name) => BoundSource::Cookie(Box::new(parse::Name::new(name))),
            Source::Query(name) => BoundSource::Query(name.clone()),
            Source::Function(function) => BoundSource::Function(function.clone()),
        };
        let carrier = match &self.source {
            Source::Header(name) => format!("header {name}"),
            Source::Cookie(name) => format!("cookie {name}"),
            Source::Query(name) => format!("query parameter {name}"),
            Source::Function(_) => "a function of the application".to_owned(),
        };
        Ok(Arc::new(Bound { source, carrier, hashing: self.hashing.bind()? }))
    }
}

struct Bound {
    source: BoundSource,
    /// Where the key is, in words.
    carrier: String,
    hashing: Hashing,
}

enum BoundSource {
    Header(HeaderName),
    Cookie(Box<parse::Name>),
    Query(String),
    Function(Arc<Function>),
}

impl Bound {
    fn value<'a>(&self, head: &Head<'a>) -> Option<Cow<'a, [u8]>> {
        match &self.source {
            BoundSource::Header(name) => Some(Cow::Borrowed(head.headers.get(name)?.as_bytes())),
            BoundSource::Cookie(name) => {
                parse::Cookies::new(head.headers).next(name).map(Cow::Borrowed)
            }
            BoundSource::Query(name) => {
                let query = head.uri.query()?.as_bytes();
                let mut pairs = form_urlencoded::parse(query);
                match pairs.find(|(found, _)| found == name)?.1 {
                    Cow::Borrowed(value) => Some(Cow::Borrowed(value.as_bytes())),
                    Cow::Owned(value) => Some(Cow::Owned(value.into_bytes())),
                }
            }
            BoundSource::Function(function) => function(head).map(Cow::Owned),
        }
    }
}

impl BoundAffinity for Bound {
    fn read(&self, head: &Head<'_>, _: &mut ReadContext<'_>) -> Reading {
        let value = self.value(head).filter(|value| !value.is_empty());
        Reading { key: value.map(|value| self.hashing.hash(&value)), ..Reading::default() }
    }

    fn saves_nothing(&self, _: &HeaderMap) -> bool {
        true
    }

    fn inspect(&self, head: &Head<'_>, cx: &mut ReadContext<'_>, found: &mut Findings) -> Reading {
        let reading = self.read(head, cx);
        if reading.key.is_some() {
            found.push(Found::new(FindingKind::Key, &*self.carrier));
        }
        reading
    }

    fn hashing(&self, _: Origin) -> Option<&Hashing> {
        Some(&self.hashing)
    }
}

impl fmt::Debug for Bound {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Key").finish_non_exhaustive()
    }
}
