//! What a proxy changes in a message's head, both ways: hop-by-hop fields (RFC 9110, section 7.6.1),
//! framing (RFC 9112, section 6) and upgrades (RFC 9110, section 7.8).

use http::{
    HeaderMap, HeaderName, HeaderValue, Method, StatusCode, Version, header,
    request::Parts as RequestParts,
    response::Parts as ResponseParts,
    uri::{Authority, PathAndQuery, Scheme, Uri},
};

use super::{
    forwarded::{self, ForwardedOptions, Kind, Via},
    target::{Protocol, Target},
};
use crate::{
    error::{BoxError, ClientError},
    session::Peer,
};

/// Which of the fields that matter are there: one walk over the names costs less than a lookup for
/// each of them.
#[derive(Default)]
struct Seen {
    connection: bool,
    host: bool,
    content_length: bool,
    transfer_encoding: bool,
    te: bool,
    expect: bool,
    cookie: bool,
    forwarded: bool,
    /// Those to remove, whatever they say. Most messages have none, and this does not allocate then.
    remove: Vec<HeaderName>,
}

impl Seen {
    fn in_request(headers: &HeaderMap) -> Self {
        let mut seen = Self::default();
        for name in headers.keys() {
            match name.as_str() {
                "host" => seen.host = true,
                "expect" => seen.expect = true,
                "cookie" => seen.cookie = true,
                other => match forwarded::kind(other) {
                    Kind::Forwarded => seen.forwarded = true,
                    Kind::Disguised => seen.remove.push(name.clone()),
                    Kind::Other => seen.common(name),
                },
            }
        }
        seen
    }

    fn in_response(headers: &HeaderMap) -> Self {
        let mut seen = Self::default();
        headers.keys().for_each(|name| seen.common(name));
        seen
    }

    fn common(&mut self, name: &HeaderName) {
        match name.as_str() {
            "connection" => self.connection = true,
            "content-length" => self.content_length = true,
            "transfer-encoding" => self.transfer_encoding = true,
            "te" => self.te = true,
            "upgrade"
            | "keep-alive"
            | "proxy-connection"
            | "proxy-authenticate"
            | "proxy-authorization"
            | "http2-settings" => self.remove.push(name.clone()),
            _ => {}
        }
    }

    /// Removes what ends at this hop.
    fn strip(&self, headers: &mut HeaderMap) {
        if self.connection {
            let fields: Vec<_> = headers.get_all(header::CONNECTION).iter().cloned().collect();
            headers.remove(header::CONNECTION);
            for name in fields.iter().flat_map(|value| tokens(value.as_bytes())) {
                // How a message is framed and whom it is for is not the sender's to take away.
                let kept = [&b"close"[..], b"keep-alive", b"host", b"content-length"];
                if !kept.iter().any(|keep| name.eq_ignore_ascii_case(keep))
                    && !is_ours(name)
                    && let Ok(name) = HeaderName::from_bytes(name)
                {
                    headers.remove(name);
                }
            }
        }
        if self.te {
            headers.remove(header::TE);
        }
        if self.transfer_encoding {
            headers.remove(header::TRANSFER_ENCODING);
            // With both, the transfer coding framed the message, and the length is a lie (RFC 9112,
            // section 6.3).
            headers.remove(header::CONTENT_LENGTH);
        }
        for name in &self.remove {
            headers.remove(name);
        }
    }
}

/// Whether it is a field that this crate adds: a client must not be able to name it away.
pub(super) fn is_ours(name: &[u8]) -> bool {
    const PREFIX: &[u8] = b"x-sticky-";
    name.get(..PREFIX.len()).is_some_and(|start| start.eq_ignore_ascii_case(PREFIX))
}

/// The elements of a comma-separated list.
fn tokens(list: &[u8]) -> impl Iterator<Item = &[u8]> {
    list.split(|byte| *byte == b',').map(<[u8]>::trim_ascii).filter(|token| !token.is_empty())
}

fn lists(headers: &HeaderMap, name: &HeaderName, token: &str) -> bool {
    headers
        .get_all(name)
        .iter()
        .flat_map(|value| tokens(value.as_bytes()))
        .any(|found| found.eq_ignore_ascii_case(token.as_bytes()))
}

/// What this proxy adds to messages.
#[derive(Debug, Clone)]
pub(super) struct Added {
    /// To requests.
    pub(super) via: Option<Via>,
    /// To answers.
    pub(super) response_via: Option<Via>,
    pub(super) forwarded: ForwardedOptions,
}

/// How long a request's body is, as far as its framing goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Length {
    Empty,
    Exact(u64),
    Unknown,
}

/// The protocols that a request asks to upgrade to, if it may.
///
/// `h2c` is left out: a tunnel of HTTP/2 would carry requests past all rules of this hop.
pub(super) fn wants_upgrade(version: Version, headers: &HeaderMap) -> Option<HeaderValue> {
    if version != Version::HTTP_11 || !headers.contains_key(header::UPGRADE) {
        return None;
    }
    let mut fields = headers.get_all(header::UPGRADE).iter();
    let only = fields.next().filter(|_| fields.next().is_none())?;
    let h2c = tokens(only.as_bytes()).any(|name| name.eq_ignore_ascii_case(b"h2c"));
    (!h2c && lists(headers, &header::CONNECTION, "upgrade")).then(|| only.clone())
}

/// Makes a client's request head into the one that goes to the backend. `expects`: an expectation is passed
/// on.
pub(super) fn request(
    parts: &mut RequestParts,
    added: &Added,
    target: &Target,
    peer: Option<&Peer>,
    upgrade: Option<&HeaderValue>,
    length: Length,
    expects: bool,
) -> Result<(), BoxError> {
    let seen = Seen::in_request(&parts.headers);
    let headers = &mut parts.headers;
    if seen.transfer_encoding && !is_chunked_once(headers) {
        let why = "a transfer coding other than chunked, which would be lost";
        return Err(ClientError::new(why).into());
    }
    let trailers = seen.te && te_trailers(headers);
    seen.strip(headers);
    if seen.expect && !expects {
        headers.remove(header::EXPECT);
    }

    // The authority of the request's target outranks `Host` (RFC 9112, section 3.2.2; RFC 9113,
    // section 8.3.1).
    let host = match parts.uri.authority() {
        Some(authority) => {
            let host = without_userinfo(authority);
            match headers.get(header::HOST) {
                Some(given) if given.as_bytes() == host.as_bytes() => given.clone(),
                _ => HeaderValue::from_str(host)?,
            }
        }
        None => match headers.get(header::HOST) {
            Some(host) => host.clone(),
            None => target.host.clone(),
        },
    };
    if let Some(via) = &added.via {
        headers.append(header::VIA, via.of(parts.version));
    }
    forwarded::apply(headers, peer, &host, &added.forwarded, seen.forwarded);

    frame(headers, &parts.method, target.protocol, length, seen.content_length);
    let path = parts.uri.path_and_query().cloned().unwrap_or(PathAndQuery::from_static("/"));
    match target.protocol {
        Protocol::Http1 => {
            parts.version = Version::HTTP_11;
            if seen.cookie {
                join_cookies(headers)?;
            }
            // Two of them would leave it to the backend which one counts.
            let one = headers.get_all(header::HOST).iter().nth(1).is_none();
            if !seen.host || !one || headers.get(header::HOST) != Some(&host) {
                headers.insert(header::HOST, host);
            }
            if parts.uri.authority().is_some() || parts.uri.path_and_query().is_none() {
                parts.uri = Uri::from(path);
                // A path may be empty in an absolute target, and nowhere else (RFC 9112, section 3.2.1).
                if parts.uri.path().is_empty() {
                    parts.uri = Uri::from_static("/");
                }
            }
            if trailers {
                headers.insert(header::TE, HeaderValue::from_static("trailers"));
            }
            if let Some(protocols) = upgrade {
                headers.insert(header::UPGRADE, protocols.clone());
                headers.insert(header::CONNECTION, HeaderValue::from_static("upgrade"));
            } else if trailers {
                // `TE` is of one hop and has to be named (RFC 9110, section 10.1.4).
                headers.insert(header::CONNECTION, HeaderValue::from_static("te"));
            }
        }
        Protocol::Http2 => {
            parts.version = Version::HTTP_2;
            headers.remove(header::HOST);
            if trailers {
                headers.insert(header::TE, HeaderValue::from_static("trailers"));
            }
            let mut uri = http::uri::Parts::default();
            uri.scheme = Some(Scheme::HTTP);
            uri.authority = Some(Authority::try_from(host.as_bytes())?);
            uri.path_and_query = Some(path);
            parts.uri = Uri::from_parts(uri)?;
        }
    }
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

/// Makes the framing fields agree with the body that will really be sent: exactly one of them, and
/// never a length that something on the way here has made untrue.
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
            // Said aloud, because hyper would drop a `GET`'s body of unknown length.
            if protocol == Protocol::Http1 {
                headers.insert(header::TRANSFER_ENCODING, HeaderValue::from_static("chunked"));
            }
            return;
        }
    };
    let said = headers.get(header::CONTENT_LENGTH).and_then(|value| value.to_str().ok());
    if said.is_some_and(|said| said.parse() == Ok(exact)) && single(headers) {
        return;
    }
    // A missing length of a method that usually has a body is to be said (RFC 9110, section 8.6).
    if exact > 0 || matches!(*method, Method::POST | Method::PUT | Method::PATCH) {
        headers.insert(header::CONTENT_LENGTH, HeaderValue::from(exact));
    } else {
        headers.remove(header::CONTENT_LENGTH);
    }
}

fn single(headers: &HeaderMap) -> bool {
    headers.get_all(header::CONTENT_LENGTH).iter().nth(1).is_none()
}

/// Makes a backend's response head into the one that goes to the client. `asked` is what the
/// request wanted to upgrade to.
///
/// An error is an answer that cannot be passed on.
pub(super) fn response(
    parts: &mut ResponseParts,
    via: Option<&Via>,
    asked: Option<&HeaderValue>,
) -> Result<(), BoxError> {
    let headers = &mut parts.headers;
    let upgrade = match parts.status {
        StatusCode::SWITCHING_PROTOCOLS => Some(accepted(headers, asked)?),
        // It must say which protocols would do (RFC 9110, section 15.5.22).
        StatusCode::UPGRADE_REQUIRED => headers.get(header::UPGRADE).cloned(),
        _ => None,
    };
    let seen = Seen::in_response(headers);
    if seen.transfer_encoding {
        // Another coding would be taken off the body's description while it is still on the body.
        if !is_chunked_once(headers) {
            return Err("the backend answered with a transfer coding other than chunked".into());
        }
        // Then it is not sure where the body ends (RFC 9112, section 6.1).
        if parts.version == Version::HTTP_10 {
            return Err("the backend answered with a transfer coding in HTTP/1.0".into());
        }
    }
    seen.strip(headers);
    if seen.content_length {
        one_length(headers)?;
    }
    if let Some(via) = via {
        headers.append(header::VIA, via.of(parts.version));
    }
    parts.version = Version::HTTP_11;
    if let Some(protocol) = upgrade {
        headers.insert(header::UPGRADE, protocol);
        headers.insert(header::CONNECTION, HeaderValue::from_static("upgrade"));
    }
    Ok(())
}

/// Removes from an interim answer what ends at this hop.
pub(super) fn interim(headers: &mut HeaderMap) {
    Seen::in_response(headers).strip(headers);
    headers.remove(header::CONTENT_LENGTH);
}

/// Whether the transfer coding is `chunked`, and nothing else.
fn is_chunked_once(headers: &HeaderMap) -> bool {
    let mut fields = headers.get_all(header::TRANSFER_ENCODING).iter();
    let chunked = fields.next().is_some_and(|v| v.as_bytes().eq_ignore_ascii_case(b"chunked"));
    chunked && fields.next().is_none()
}

/// Makes one length of a list of equal ones; different ones are an error (RFC 9110, section 8.6).
fn one_length(headers: &mut HeaderMap) -> Result<(), BoxError> {
    let is_number = |length: &[u8]| !length.is_empty() && length.iter().all(u8::is_ascii_digit);
    let mut fields = headers.get_all(header::CONTENT_LENGTH).iter();
    match (fields.next(), fields.next()) {
        (None, _) => return Ok(()),
        (Some(only), None) if is_number(only.as_bytes()) => return Ok(()),
        _ => {}
    }
    let fields = headers.get_all(header::CONTENT_LENGTH).iter();
    let lengths = fields.flat_map(|value| value.as_bytes().split(|byte| *byte == b','));
    let mut one: Option<&[u8]> = None;
    for length in lengths.map(<[u8]>::trim_ascii) {
        if !is_number(length) || one.is_some_and(|one| one != length) {
            return Err("the backend answered with an invalid Content-Length".into());
        }
        one = Some(length);
    }
    let one = HeaderValue::from_bytes(one.unwrap_or_default())?;
    headers.insert(header::CONTENT_LENGTH, one);
    Ok(())
}

/// The protocol of a 101, which must be one that was asked for.
fn accepted(headers: &HeaderMap, asked: Option<&HeaderValue>) -> Result<HeaderValue, BoxError> {
    let Some(asked) = asked else {
        return Err("the backend switched protocols without being asked to".into());
    };
    let answer = headers.get(header::UPGRADE).ok_or("a 101 without Upgrade")?;
    let mut named = tokens(answer.as_bytes()).peekable();
    let asked_for = |name: &[u8]| tokens(asked.as_bytes()).any(|a| a.eq_ignore_ascii_case(name));
    if named.peek().is_none() || !named.all(asked_for) {
        return Err("the backend switched to a protocol that was not asked for".into());
    }
    Ok(answer.clone())
}

#[cfg(test)]
mod tests;
