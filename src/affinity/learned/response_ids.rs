//! The session ids in a response.

use std::borrow::Cow;

use http::{
    HeaderMap, StatusCode,
    header::{LOCATION, SET_COOKIE},
};

use crate::affinity::{
    cookie::parse,
    id_source::{BoundSource, decoded},
    path_template::PathTemplate,
    response_cookie::ResponseCookie,
};

/// Calls `visit` with each id that a response sets, and with `None` for each removal of the id. `now` is in Unix
/// seconds.
pub(super) fn each(
    source: &BoundSource,
    status: StatusCode,
    request_path: Option<&str>,
    headers: &HeaderMap,
    now: u64,
    mut visit: impl FnMut(Option<&[u8]>),
) {
    match source {
        BoundSource::Cookie(name) => {
            for field in headers.get_all(SET_COOKIE) {
                if let Some(cookie) = ResponseCookie::of(field.as_bytes(), name.as_str()) {
                    visit(cookie.id(now).map(parse::unquote));
                }
            }
        }
        BoundSource::Header(name) => {
            for value in headers.get_all(name) {
                visit(Some(value.as_bytes()).filter(|id| !id.is_empty()));
            }
        }
        BoundSource::Path(template) => {
            if let Some(id) = created(template, status, request_path, headers) {
                visit(Some(&id));
            }
        }
        // The application tells such ids in the body.
        BoundSource::Query(_) | BoundSource::PathParameter(_) => {}
    }
}

/// The id in the `Location` of a created resource or a redirection (RFC 9110, section 10.2.2).
fn created<'a>(
    template: &PathTemplate,
    status: StatusCode,
    request_path: Option<&str>,
    headers: &'a HeaderMap,
) -> Option<Cow<'a, [u8]>> {
    if status != StatusCode::CREATED && !status.is_redirection() {
        return None;
    }
    let location = headers.get(LOCATION)?.to_str().ok()?;
    match path_of(location, request_path)? {
        Cow::Borrowed(path) => template.id_in(path).map(decoded),
        Cow::Owned(path) => Some(Cow::Owned(decoded(template.id_in(&path)?).into_owned())),
    }
}

/// The path of a reference, resolved against that of the request (RFC 3986, section 5.2).
fn path_of<'a>(reference: &'a str, base: Option<&str>) -> Option<Cow<'a, str>> {
    let end = reference.find(['?', '#']).unwrap_or(reference.len());
    let reference = &reference[..end];
    let colon = reference.find(':').filter(|at| !reference[..*at].contains('/'));
    let after_scheme = colon.map_or(reference, |at| &reference[at + 1..]);
    if let Some(rest) = after_scheme.strip_prefix("//") {
        return Some(Cow::Borrowed(&rest[rest.find('/')?..]));
    }
    if colon.is_some() || after_scheme.starts_with('/') {
        return Some(Cow::Borrowed(after_scheme));
    }
    let base = base?;
    let directory = &base[..=base.rfind('/')?];
    Some(Cow::Owned(without_dots(&format!("{directory}{reference}"))))
}

/// A path without the segments `.` and `..` (RFC 3986, section 5.2.4).
fn without_dots(path: &str) -> String {
    let mut segments: Vec<&str> = Vec::new();
    for segment in path.split('/').skip(1) {
        match segment {
            "." => {}
            ".." => drop(segments.pop()),
            segment => segments.push(segment),
        }
    }
    format!("/{}", segments.join("/"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn references_are_resolved() {
        let base = Some("/api/files");
        for (reference, path) in [
            ("https://shop.example/files/8f3a?x=1#y", Some("/files/8f3a")),
            ("//shop.example/files/8f3a", Some("/files/8f3a")),
            ("/files/8f3a?x=/y", Some("/files/8f3a")),
            ("files/8f3a", Some("/api/files/8f3a")),
            ("./files/8f3a", Some("/api/files/8f3a")),
            ("../files/8f3a", Some("/files/8f3a")),
            ("../../../files/a:b", Some("/files/a:b")),
            ("https://shop.example", None),
        ] {
            assert_eq!(path_of(reference, base).as_deref(), path, "{reference}");
        }
        assert_eq!(path_of("files/8f3a", None), None, "the request's path is unknown");
        assert_eq!(path_of("8f3a", Some("/files/")).as_deref(), Some("/files/8f3a"));
    }
}
