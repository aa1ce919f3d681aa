//! The head of a request.

use http::{
    HeaderMap, HeaderValue, Method, Version, header,
    request::Parts,
    uri::{Authority, PathAndQuery, Scheme, Uri},
};

use super::common::{Added, Length, Present, is_chunked_once, tokens};
use crate::{
    error::{BoxError, ClientError},
    session::Peer,
    upstream::http::{forwarded, protocol::Protocol, target::Target},
};

/// How many fields are added to most requests: `Via`, `Forwarded` and three of its kin.
const ADDED_FIELDS: usize = 5;

/// Where a request goes, and what is added to it.
#[derive(Clone, Copy)]
pub(in crate::upstream::http) struct Hop<'a> {
    pub(in crate::upstream::http) added: &'a Added,
    pub(in crate::upstream::http) target: &'a Target,
    pub(in crate::upstream::http) protocol: Protocol,
}

/// Makes a client's request head into the one that goes to the backend. `expects`: an expectation is passed
/// on.
pub(in crate::upstream::http) fn request(
    parts: &mut Parts,
    hop: Hop<'_>,
    peer: Option<&Peer>,
    upgrade: Option<&HeaderValue>,
    length: Length,
    expects: bool,
) -> Result<(), BoxError> {
    let Hop { added, target, protocol } = hop;
    let present = Present::in_request(&parts.headers);
    let headers = &mut parts.headers;
    if present.transfer_encoding && !is_chunked_once(headers) {
        let why = "a transfer coding other than chunked, which would be lost";
        return Err(ClientError::new(why).into());
    }
    let trailers = present.te && te_trailers(headers);
    present.strip(headers);
    if present.expect && !expects {
        headers.remove(header::EXPECT);
    }
    let (host, is_given) = host(&parts.uri, headers, target)?;
    // At once, as a map that grows several times is built several times.
    headers.reserve(ADDED_FIELDS);
    if let Some(via) = &added.via {
        headers.append(header::VIA, via.of(parts.version));
    }
    forwarded::apply(headers, peer, &host, &added.forwarded, present.forwarded);
    frame(headers, &parts.method, protocol, length, present.content_length);
    if trailers {
        headers.insert(header::TE, HeaderValue::from_static("trailers"));
    }
    match protocol {
        Protocol::Http1 => {
            if present.cookie {
                join_cookies(headers)?;
            }
            if let Some(protocols) = upgrade {
                headers.insert(header::UPGRADE, protocols.clone());
                headers.insert(header::CONNECTION, HeaderValue::from_static("upgrade"));
            } else if trailers {
                // `TE` is hop-by-hop and has to be named (RFC 9110, section 10.1.4).
                headers.insert(header::CONNECTION, HeaderValue::from_static("te"));
            }
            if !is_given {
                parts.headers.insert(header::HOST, host);
            }
            to_http1(parts, target)
        }
        Protocol::Http2 => to_http2(parts, &host, target),
    }
}

/// The host that is asked for, and whether the only `Host` says so. The authority of the target outranks it (RFC
/// 9112, section 3.2.2; RFC 9113, section 8.3.1). Of two of them the backend would choose which one counts.
fn host(uri: &Uri, headers: &HeaderMap, target: &Target) -> Result<(HeaderValue, bool), BoxError> {
    let mut hosts = headers.get_all(header::HOST).iter();
    let (given, is_single) = (hosts.next(), hosts.next().is_none());
    let Some(authority) = uri.authority() else {
        let is_given = given.is_some() && is_single;
        return Ok((given.unwrap_or(&target.host).clone(), is_given));
    };
    let host = without_userinfo(authority);
    match given {
        Some(given) if given.as_bytes() == host.as_bytes() => Ok((given.clone(), is_single)),
        _ => Ok((HeaderValue::from_str(host)?, false)),
    }
}

/// The request line of HTTP/1.1, in origin form.
fn to_http1(parts: &mut Parts, target: &Target) -> Result<(), BoxError> {
    let uri = &parts.uri;
    parts.version = Version::HTTP_11;
    if uri.authority().is_none() && uri.path_and_query().is_some() && target.keeps_path() {
        return Ok(());
    }
    // A path may be empty in an absolute target, and nowhere else (RFC 9112, section 3.2.1).
    let path = match uri.path_and_query() {
        // An empty one calls itself "/", but is written as it is. Only a target without an authority shows it.
        Some(path) if !Uri::from(path.clone()).path().is_empty() => path.clone(),
        _ => PathAndQuery::from_static("/"),
    };
    parts.uri = Uri::from(target.path(path)?);
    Ok(())
}

/// The pseudo-header fields of HTTP/2.
fn to_http2(parts: &mut Parts, host: &HeaderValue, target: &Target) -> Result<(), BoxError> {
    parts.version = Version::HTTP_2;
    parts.headers.remove(header::HOST);
    // There is no empty authority.
    let host = if host.is_empty() { &target.host } else { host };
    let path = parts.uri.path_and_query().cloned();
    let mut uri = http::uri::Parts::default();
    uri.scheme = Some(if target.is_https { Scheme::HTTPS } else { Scheme::HTTP });
    uri.authority = Some(Authority::try_from(host.as_bytes())?);
    uri.path_and_query = Some(target.path(path.unwrap_or(PathAndQuery::from_static("/")))?);
    parts.uri = Uri::from_parts(uri)?;
    Ok(())
}

/// Makes one `Cookie` field of those into which HTTP/2 may split it (RFC 9113, section 8.2.3).
fn join_cookies(headers: &mut HeaderMap) -> Result<(), BoxError> {
    let mut fields = headers.get_all(header::COOKIE).iter().map(HeaderValue::as_bytes);
    let (Some(first), Some(second)) = (fields.next(), fields.next()) else {
        return Ok(());
    };
    let mut joined = first.to_vec();
    for field in std::iter::once(second).chain(fields) {
        joined.extend_from_slice(b"; ");
        joined.extend_from_slice(field);
    }
    headers.insert(header::COOKIE, HeaderValue::from_bytes(&joined)?);
    Ok(())
}

fn te_trailers(headers: &HeaderMap) -> bool {
    headers
        .get_all(header::TE)
        .iter()
        .flat_map(|value| tokens(value.as_bytes()))
        .any(|coding| coding.eq_ignore_ascii_case(b"trailers"))
}

fn without_userinfo(authority: &Authority) -> &str {
    let whole = authority.as_str();
    whole.rsplit_once('@').map_or(whole, |(_, host)| host)
}

/// Makes the framing fields agree with the body that will be sent: exactly one of them, and never a length
/// that a middleware has made wrong.
fn frame(
    headers: &mut HeaderMap,
    method: &Method,
    protocol: Protocol,
    length: Length,
    has_length: bool,
) {
    let exact = match length {
        Length::Empty => 0,
        Length::Exact(exact) => exact,
        Length::Unknown => {
            if has_length {
                headers.remove(header::CONTENT_LENGTH);
            }
            // Set here, because hyper would drop a `GET`'s body of unknown length.
            if protocol == Protocol::Http1 {
                headers.insert(header::TRANSFER_ENCODING, HeaderValue::from_static("chunked"));
            }
            return;
        }
    };
    let given = has_length.then(|| headers.get(header::CONTENT_LENGTH)).flatten();
    let given = given.and_then(|value| value.to_str().ok());
    if given.is_some_and(|given| given.parse() == Ok(exact)) && single(headers) {
        return;
    }
    // Methods that usually have a body say so when they have none (RFC 9110, section 8.6).
    if exact > 0 || matches!(*method, Method::POST | Method::PUT | Method::PATCH) {
        headers.insert(header::CONTENT_LENGTH, HeaderValue::from(exact));
    } else if has_length {
        headers.remove(header::CONTENT_LENGTH);
    }
}

fn single(headers: &HeaderMap) -> bool {
    headers.get_all(header::CONTENT_LENGTH).iter().nth(1).is_none()
}
