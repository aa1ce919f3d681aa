//! Where a request has an id of the application: a cookie, a header, the query or the path.

use std::{borrow::Cow, fmt};

use http::HeaderName;
use percent_encoding::percent_decode;

use super::{
    Head,
    cookie::{parse, set_cookie},
    header::header_name,
    path_template::PathTemplate,
    token_options::invalid,
};
use crate::error::ConfigError;

/// The most ids of one request that are looked at. Clients normally have one.
pub(super) const MAX_IDS: usize = 8;

/// Where an id is, as it is configured.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum IdSource {
    Cookie(String),
    Header(String),
    /// A parameter of the query.
    Query(String),
    /// A segment of the path.
    Path(String),
    /// A parameter of a path segment (`;name=value`).
    PathParameter(String),
}

/// The constructors of a builder by where a request has the id or the key, with their documentation. Its `new` takes
/// the source.
macro_rules! source_constructors {
    ($($(#[$doc:meta])* $name:ident($argument:ident) => $source:path,)*) => {$(
        $(#[$doc])*
        pub fn $name($argument: impl Into<String>) -> Self {
            Self::new($source($argument.into()))
        }
    )*};
}

pub(super) use source_constructors;

/// Where an id is, with its configuration checked.
#[derive(Debug)]
pub(super) enum BoundSource {
    Cookie(Box<parse::Name>),
    Header(HeaderName),
    Query(String),
    Path(PathTemplate),
    PathParameter(String),
}

impl IdSource {
    /// What it is, for messages.
    pub(super) fn describe(&self) -> String {
        match self {
            Self::Cookie(name) => format!("the cookie {name:?}"),
            Self::Header(name) => format!("the header {name:?}"),
            Self::Query(name) => format!("the query parameter {name:?}"),
            Self::Path(template) => format!("the path {template:?}"),
            Self::PathParameter(name) => format!("the path parameter {name:?}"),
        }
    }

    pub(super) fn bind(&self) -> Result<BoundSource, ConfigError> {
        let source = match self {
            Self::Cookie(name) | Self::Query(name) | Self::PathParameter(name)
                if name.is_empty() =>
            {
                return Err(invalid(&self.describe(), "its name is empty"));
            }
            Self::PathParameter(name) if name.contains(['/', ';', '=', '?', '#', ' ']) => {
                return Err(invalid(&self.describe(), "its name cannot stand in a path"));
            }
            Self::Cookie(name) => {
                set_cookie::check_name(name)?;
                BoundSource::Cookie(Box::new(parse::Name::new(name)))
            }
            Self::Header(name) => BoundSource::Header(header_name(name)?),
            Self::Query(name) => BoundSource::Query(name.clone()),
            Self::Path(template) => BoundSource::Path(PathTemplate::parse(template)?),
            Self::PathParameter(name) => BoundSource::PathParameter(name.clone()),
        };
        Ok(source)
    }
}

impl fmt::Display for BoundSource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Cookie(name) => write!(f, "cookie {}", name.as_str()),
            Self::Header(name) => write!(f, "header {name}"),
            Self::Query(name) => write!(f, "query parameter {name}"),
            Self::Path(_) => f.write_str("path"),
            Self::PathParameter(name) => write!(f, "path parameter {name}"),
        }
    }
}

impl BoundSource {
    /// Calls `visit` with each id that is not empty, until it returns a value. Ids in the query and in the path are
    /// decoded.
    #[inline]
    pub(super) fn find<B>(
        &self,
        head: &Head<'_>,
        mut visit: impl FnMut(&[u8]) -> Option<B>,
    ) -> Option<B> {
        let mut visit = |id: &[u8]| if id.is_empty() { None } else { visit(id) };
        match self {
            Self::Cookie(name) => {
                let mut cookies = parse::Cookies::new(head.headers);
                std::iter::from_fn(|| cookies.next(name)).take(MAX_IDS).find_map(visit)
            }
            Self::Header(name) => {
                let values = head.headers.get_all(name).iter().take(MAX_IDS);
                values.map(|value| value.as_bytes()).find_map(visit)
            }
            Self::Query(name) => {
                let pairs = form_urlencoded::parse(head.uri.query()?.as_bytes());
                let named = pairs.filter(|(found, _)| found == name).take(MAX_IDS);
                named.map(|(_, value)| value).find_map(|value| visit(value.as_bytes()))
            }
            Self::Path(template) => visit(&decoded(template.id_in(head.client_path())?)),
            Self::PathParameter(name) => {
                let parameters = path_parameters(head.client_path(), name).take(MAX_IDS);
                parameters.map(decoded).find_map(|value| visit(&value))
            }
        }
    }
}

/// The values of the parameter `name` of the segments of `path` (RFC 3986, section 3.3).
fn path_parameters<'a>(path: &'a str, name: &str) -> impl Iterator<Item = &'a str> {
    let parameters = path.split('/').flat_map(|segment| segment.split(';').skip(1));
    parameters.filter_map(move |parameter| parameter.strip_prefix(name)?.strip_prefix('='))
}

/// `text` without percent-encoding (RFC 3986, section 2.1).
pub(super) fn decoded(text: &str) -> Cow<'_, [u8]> {
    percent_decode(text.as_bytes()).into()
}

#[cfg(test)]
mod tests {
    use http::Request;

    use super::*;

    fn ids(source: &IdSource, request: &Request<()>) -> Vec<String> {
        let mut ids = Vec::new();
        source.bind().unwrap().find(&Head::of(request), |id| {
            ids.push(String::from_utf8_lossy(id).into_owned());
            None::<()>
        });
        ids
    }

    fn get(uri: &str) -> Request<()> {
        Request::get(uri).body(()).unwrap()
    }

    #[test]
    fn ids_of_the_query_are_decoded() {
        let sid = IdSource::Query("sid".into());
        assert_eq!(ids(&sid, &get("/?a=b&sid=x%2Ey&asid=z&sid=&sid=w+v")), ["x.y", "w v"]);
        assert!(ids(&sid, &get("/sid=x")).is_empty());
    }

    #[test]
    fn ids_of_path_parameters_end_with_their_segment() {
        let session = IdSource::PathParameter("jsessionid".into());
        assert_eq!(
            ids(&session, &get("/a;jsessionid=0A1B.node1/b?x=;jsessionid=no")),
            ["0A1B.node1"]
        );
        assert_eq!(ids(&session, &get("/a;x=1;jsessionid=%30;y")), ["0"]);
        assert!(ids(&session, &get("/jsessionid=1/a;xjsessionid=2;jsessionid")).is_empty());
    }

    #[test]
    fn at_most_so_many_ids_are_looked_at() {
        let request = get(&format!("/?{}", "sid=x&".repeat(100)));
        assert_eq!(ids(&IdSource::Query("sid".into()), &request).len(), MAX_IDS);
    }

    #[test]
    fn a_source_is_named_by_its_kind_and_its_name() {
        for (source, text) in [
            (IdSource::Cookie("a".into()), "cookie a"),
            (IdSource::Header("X-A".into()), "header x-a"),
            (IdSource::Query("a".into()), "query parameter a"),
            (IdSource::Path("/files/{id}".into()), "path"),
            (IdSource::PathParameter("a".into()), "path parameter a"),
        ] {
            assert_eq!(source.bind().unwrap().to_string(), text);
        }
    }

    #[test]
    fn names_are_checked() {
        for source in [
            IdSource::Cookie(String::new()),
            IdSource::Query(String::new()),
            IdSource::PathParameter(String::new()),
            IdSource::Header("a b".into()),
            IdSource::Path("files".into()),
        ] {
            assert!(source.bind().is_err(), "{source:?}");
        }
    }
}
