//! `Route`, as it is configured.

use std::{collections::HashMap, fmt, sync::Arc};

use super::{
    bound::{Bound, Format, Names},
    codes::Codes,
    separator::Part,
};
use crate::{
    affinity::{
        BoundAffinity,
        id_source::{IdSource, source_constructors},
        token_options::invalid,
        traits::sealed::Bind,
    },
    error::ConfigError,
    hash::KeyHasher,
    id::{BackendId, MAX_ID_LEN},
    token::KeyRing,
};

/// The application's own session id, which contains the name of its backend, the route: as Tomcat's `jvmRoute`
/// (`JSESSIONID=0A1B2C.node1`), or in an id that the application makes for a client that keeps no cookies.
/// Nothing is added to responses, and nothing is stored.
///
/// # Where the id is, and the route in it
///
/// The id is in a [cookie](Self::cookie), a [header](Self::header), a parameter of the [query](Self::query), a
/// segment of the [path](Self::path), or a [path parameter](Self::path_parameter). The route is the whole id, or what
/// stands [after](Self::after) or [before](Self::before) a separator. When the separator occurs several times, the
/// longest known route counts, so that backend ids may contain it. Of several ids in a request the first one with a
/// known route counts.
///
/// # Plain and sealed routes
///
/// A plain route is the id of the backend, or a [name](Self::name) for it. A client can read it and choose another
/// backend.
///
/// A [sealed](Self::sealed) route is a code of 13 characters that the backend gets from this gateway and puts into
/// its ids: with [`session_headers`](crate::StickyLayer::session_headers) in the header `x-sticky-route`, and with
/// [`session_extensions`](crate::StickyLayer::session_extensions) as [`SessionInfo::route`](crate::SessionInfo::route). It
/// is the same for all sessions of a backend. A client that has not seen the code of a backend cannot guess it (64
/// bits). It tells nothing about ids and their number, and is valid in its pool only.
///
/// Unlike a sealed token it has no times and no session: a client can use a code that it has seen in an id of its
/// own for as long as the key is in the ring. That gives it no access to another's session, as the id is the
/// application's to check.
///
/// # When the backend cannot serve
///
/// The id cannot be changed here, so the session does not move: its requests are
/// [borrowed](crate::Verdict::Borrowed) by the first backend in the rank of the id that can serve, which is the same on
/// every gateway, until the application makes a new id. With [`strict`](crate::StickyLayer::strict) they are refused
/// instead. An id without a known route is as none, with the reason `unknown`, `forged` or `malformed`; all requests
/// with that id go to one backend.
///
/// # Rotation of keys
///
/// Add the new key behind the old one on every gateway, then put it first. The backends get the codes under the
/// first key, and codes under all keys are valid. Remove the old key when the last id with one of its codes
/// has ended.
///
/// # Example
///
/// ```
/// use tower_sticky::{KeyRing, affinity::Route};
///
/// // Tomcat: <Engine jvmRoute="node1">, where the backend has the id node1.
/// let tomcat = Route::cookie("JSESSIONID").after('.');
/// // Socket.IO with `generateId` that appends "." and the request's x-sticky-route.
/// let keys = KeyRing::generate()?; // in production KeyRing::from_env("STICKY_KEY")
/// let socket_io = Route::query("sid").after('.').sealed(keys);
/// let uploads = Route::path("/files/{id}").before('~');
/// # Ok::<(), tower_sticky::ConfigError>(())
/// ```
#[derive(Clone)]
pub struct Route {
    source: IdSource,
    part: Part,
    names: Vec<(String, String)>,
    keys: Option<KeyRing>,
}

impl Route {
    source_constructors! {
        /// The id is in a cookie.
        cookie(name) => IdSource::Cookie,

        /// The id is in a request header.
        header(name) => IdSource::Header,

        /// The id is in a parameter of the query, which is decoded (`application/x-www-form-urlencoded`, WHATWG
        /// URL standard).
        query(name) => IdSource::Query,

        /// The id is a segment of the path, for example `/files/{id}`. The path matches when its segments are those of
        /// the template, whatever follows after the next `/`. Percent-encoding in the id is decoded.
        path(template) => IdSource::Path,

        /// The id is a parameter of a segment of the path, for example `/cart;jsessionid=0A1B2C.node1` (RFC 3986,
        /// section 3.3). Percent-encoding in it is decoded.
        path_parameter(name) => IdSource::PathParameter,
    }

    fn new(source: IdSource) -> Self {
        Self { source, part: Part::Whole, names: Vec::new(), keys: None }
    }

    /// The route follows after `separator`, which is neither a letter nor a digit. Default: the whole id is the
    /// route.
    #[must_use]
    pub fn after(mut self, separator: char) -> Self {
        self.part = Part::After(separator);
        self
    }

    /// The route stands before `separator`, which is neither a letter nor a digit.
    #[must_use]
    pub fn before(mut self, separator: char) -> Self {
        self.part = Part::Before(separator);
        self
    }

    /// In routes the backend `id` is called `name`, as well as by its id. Not for sealed routes.
    #[must_use]
    pub fn name(mut self, name: impl Into<String>, id: impl Into<String>) -> Self {
        self.names.push((name.into(), id.into()));
        self
    }

    /// Routes are codes that cannot be guessed, made with these keys.
    #[must_use]
    pub fn sealed(mut self, keys: KeyRing) -> Self {
        self.keys = Some(keys);
        self
    }

    fn format(&self, pool: &str, carrier: &str) -> Result<Format, ConfigError> {
        if let Some(keys) = &self.keys {
            if !self.names.is_empty() {
                let why = "sealed routes have no names; leave out the names or `sealed`";
                return Err(invalid(carrier, why));
            }
            return Ok(Format::Sealed(Codes::new(keys.clone(), pool)));
        }
        let mut names = Names::default();
        for (name, id) in &self.names {
            let id = BackendId::new(id)?;
            if name.is_empty() || name.len() > MAX_ID_LEN {
                let why = format!("the name {name:?} has not 1 to {MAX_ID_LEN} bytes");
                return Err(invalid(carrier, &why));
            }
            let by_name: &mut HashMap<_, _> = &mut names.by_name;
            if by_name.insert(name.as_bytes().into(), id.clone()).is_some() {
                let why = format!("two backends are called {name:?}; give each its own name");
                return Err(invalid(carrier, &why));
            }
            names.by_id.entry(id).or_insert_with(|| name.as_str().into());
        }
        Ok(Format::Plain(names))
    }
}

impl fmt::Debug for Route {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Route")
            .field("source", &self.source)
            .field("part", &self.part)
            .field("sealed", &self.keys.is_some())
            .finish_non_exhaustive()
    }
}

impl Bind for Route {
    fn bind(&self, pool: &str) -> Result<Arc<dyn BoundAffinity>, ConfigError> {
        let carrier = self.source.describe();
        self.part.check(&carrier)?;
        let format = self.format(pool, &carrier)?;
        let (source, hasher) = (self.source.bind()?, KeyHasher::xxh3());
        Ok(Arc::new(Bound { source, part: self.part, format, hasher }))
    }
}
