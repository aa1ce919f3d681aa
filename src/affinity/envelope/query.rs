//! Envelopes in a parameter of the query of a request.

use std::{borrow::Cow, fmt};

use http::{Uri, uri::PathAndQuery};
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, percent_encode};

use super::carrier::Edit;
use crate::{
    affinity::{id_source::MAX_IDS, token_options::invalid},
    error::ConfigError,
};

/// The bytes that are encoded in a value: all but the unreserved ones (RFC 3986, section 2.3).
const ENCODED: AsciiSet = NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~');

/// The parameter of the query that may have the envelope.
#[derive(Debug)]
pub(super) struct QueryParameter(String);

impl fmt::Display for QueryParameter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "query parameter {}", self.0)
    }
}

impl QueryParameter {
    pub(super) fn new(name: &str) -> Result<Self, ConfigError> {
        if name.is_empty() {
            return Err(invalid("the query parameter \"\"", "its name is empty"));
        }
        Ok(Self(name.to_owned()))
    }

    /// The decoded value of a `name=value` pair, if it is of this parameter.
    fn value<'a>(&self, pair: &'a str) -> Option<Cow<'a, str>> {
        let (name, value) = form_urlencoded::parse(pair.as_bytes()).next()?;
        (name == self.0).then_some(value)
    }

    /// Calls `visit` with the position and the value of each pair of this parameter.
    pub(super) fn each(&self, uri: &Uri, mut visit: impl FnMut(usize, &[u8])) {
        let pairs = uri.query().into_iter().flat_map(|query| query.split('&'));
        let values = pairs.filter_map(|pair| self.value(pair)).take(MAX_IDS);
        for (position, value) in values.enumerate() {
            visit(position, value.as_bytes());
        }
    }

    /// The target with each value kept, removed or replaced as `choose` returns; `None` if it is the same, or would
    /// not be valid.
    pub(super) fn edit<'a>(
        &self,
        uri: &Uri,
        mut choose: impl FnMut(usize, &[u8]) -> Edit<'a>,
    ) -> Option<Uri> {
        let (mut position, mut changed) = (0, false);
        let mut pairs = Vec::new();
        for pair in uri.query()?.split('&') {
            let edit = match self.value(pair) {
                Some(value) => {
                    position += 1;
                    choose(position - 1, value.as_bytes())
                }
                None => Edit::Keep,
            };
            changed |= !matches!(edit, Edit::Keep);
            match edit {
                Edit::Keep => pairs.push(Cow::Borrowed(pair)),
                Edit::Remove => {}
                Edit::Replace(id) => {
                    let name = pair.split('=').next().unwrap_or_default();
                    pairs.push(format!("{name}={}", percent_encode(id, &ENCODED)).into());
                }
            }
        }
        if !changed {
            return None;
        }
        let target = match pairs.is_empty() {
            true => uri.path().to_owned(),
            false => format!("{}?{}", uri.path(), pairs.join("&")),
        };
        let mut parts = uri.clone().into_parts();
        parts.path_and_query = Some(PathAndQuery::try_from(target).ok()?);
        Uri::from_parts(parts).ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn edited(uri: &str, edits: &[(&str, Edit<'static>)]) -> Option<String> {
        let parameter = QueryParameter::new("sid").unwrap();
        let mut edits = edits.iter();
        let uri = parameter.edit(&uri.parse().unwrap(), |position, value| {
            let Some((expected, edit)) = edits.next() else { return Edit::Keep };
            assert_eq!(value, expected.as_bytes(), "at {position}");
            match edit {
                Edit::Keep => Edit::Keep,
                Edit::Remove => Edit::Remove,
                Edit::Replace(id) => Edit::Replace(id),
            }
        });
        uri.map(|uri| uri.to_string())
    }

    #[test]
    fn other_parameters_stay_byte_for_byte() {
        for (uri, expected) in [
            ("/a?sid=x", "/a?sid=b%20c%2F%3D"),
            ("/a?x=%7e&&sid=x&=&y", "/a?x=%7e&&sid=b%20c%2F%3D&=&y"),
            ("/a?s%69d=x&asid=x&Sid=x", "/a?s%69d=b%20c%2F%3D&asid=x&Sid=x"),
            ("http://shop/?sid=x", "http://shop/?sid=b%20c%2F%3D"),
        ] {
            assert_eq!(edited(uri, &[("x", Edit::Replace(b"b c/="))]).as_deref(), Some(expected));
        }
    }

    #[test]
    fn a_query_without_pairs_goes() {
        assert_eq!(edited("/a?sid=x", &[("x", Edit::Remove)]).as_deref(), Some("/a"));
        assert_eq!(edited("/a?sid=x&b", &[("x", Edit::Remove)]).as_deref(), Some("/a?b"));
    }

    #[test]
    fn nothing_to_do_leaves_the_target_alone() {
        for uri in ["/a", "/a?", "/a?b=sid", "/a?sid=x&b"] {
            assert_eq!(edited(uri, &[("x", Edit::Keep)]), None, "{uri}");
        }
    }

    #[test]
    fn it_is_written_with_its_name() {
        assert_eq!(QueryParameter::new("sid").unwrap().to_string(), "query parameter sid");
    }
}
