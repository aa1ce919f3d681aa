//! What heads of requests and of responses have in common.

use http::{
    HeaderMap, HeaderName, HeaderValue, Version,
    header::{self, Entry},
};
use http_body::Body;

use crate::upstream::http::forwarded::{self, ForwardedOptions, Kind, Via};

/// Which of the fields that matter are present: one walk over the names costs less than a lookup for each of
/// them.
#[derive(Default)]
#[expect(clippy::struct_excessive_bools, reason = "each flag is about another header field")]
pub(super) struct Present {
    pub(super) connection: bool,
    pub(super) content_length: bool,
    pub(super) transfer_encoding: bool,
    pub(super) te: bool,
    pub(super) expect: bool,
    pub(super) cookie: bool,
    pub(super) forwarded: bool,
    /// Fields to remove, whatever their value. Most messages have none, and this does not allocate then.
    remove: Vec<HeaderName>,
}

impl Present {
    pub(super) fn in_request(headers: &HeaderMap) -> Self {
        let mut present = Self::default();
        for name in headers.keys() {
            match name.as_str() {
                "expect" => present.expect = true,
                "cookie" => present.cookie = true,
                other => match forwarded::kind(other) {
                    Kind::Forwarded => present.forwarded = true,
                    Kind::Disguised => present.remove.push(name.clone()),
                    Kind::Other => present.common(name),
                },
            }
        }
        present
    }

    pub(super) fn in_response(headers: &HeaderMap) -> Self {
        let mut present = Self::default();
        headers.keys().for_each(|name| present.common(name));
        present
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
    pub(super) fn strip(&self, headers: &mut HeaderMap) {
        if self.connection && !remove_plain_connection(headers) {
            let fields: Vec<_> = headers.get_all(header::CONNECTION).iter().cloned().collect();
            headers.remove(header::CONNECTION);
            for name in fields.iter().flat_map(|value| tokens(value.as_bytes())) {
                // The sender cannot make these hop-by-hop: they frame the message or name its host.
                let kept = [&b"close"[..], b"keep-alive", b"host", b"content-length"];
                if !kept.iter().any(|kept| name.eq_ignore_ascii_case(kept))
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
            // With both, the transfer coding framed the message, and the length is wrong (RFC 9112, section
            // 6.3).
            headers.remove(header::CONTENT_LENGTH);
        }
        for name in &self.remove {
            headers.remove(name);
        }
    }
}

/// Removes `Connection` where it names no field, as most do. Whether it did.
fn remove_plain_connection(headers: &mut HeaderMap) -> bool {
    let Entry::Occupied(connection) = headers.entry(header::CONNECTION) else { return true };
    let mut values = connection.iter().map(HeaderValue::as_bytes);
    let is_plain = |value: &[u8]| {
        value.eq_ignore_ascii_case(b"keep-alive") || value.eq_ignore_ascii_case(b"close")
    };
    if !values.all(is_plain) {
        return false;
    }
    connection.remove();
    true
}

/// Whether it is a field that this crate adds, which `Connection` must not remove.
pub(in crate::upstream::http) fn is_ours(name: &[u8]) -> bool {
    const PREFIX: &[u8] = b"x-sticky-";
    name.get(..PREFIX.len()).is_some_and(|start| start.eq_ignore_ascii_case(PREFIX))
}

/// The elements of a comma-separated list.
pub(super) fn tokens(list: &[u8]) -> impl Iterator<Item = &[u8]> {
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
pub(in crate::upstream::http) struct Added {
    /// To requests.
    pub(in crate::upstream::http) via: Option<Via>,
    /// To answers.
    pub(in crate::upstream::http) response_via: Option<Via>,
    pub(in crate::upstream::http) forwarded: ForwardedOptions,
}

/// How long a request's body is, as far as its framing goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::upstream::http) enum Length {
    Empty,
    Exact(u64),
    Unknown,
}

impl Length {
    pub(in crate::upstream::http) fn of(body: &impl Body) -> Self {
        if body.is_end_stream() {
            return Self::Empty;
        }
        body.size_hint().exact().map_or(Self::Unknown, Self::Exact)
    }
}

/// The protocols that a request asks to upgrade to, if it may.
///
/// `h2c` is left out: requests in a tunnel of HTTP/2 would bypass this proxy.
pub(in crate::upstream::http) fn wants_upgrade(
    version: Version,
    headers: &HeaderMap,
) -> Option<HeaderValue> {
    if version != Version::HTTP_11 || !headers.contains_key(header::UPGRADE) {
        return None;
    }
    let mut fields = headers.get_all(header::UPGRADE).iter();
    let only = fields.next().filter(|_| fields.next().is_none())?;
    let h2c = tokens(only.as_bytes()).any(|name| name.eq_ignore_ascii_case(b"h2c"));
    (!h2c && lists(headers, &header::CONNECTION, "upgrade")).then(|| only.clone())
}

/// Removes from an interim answer what ends at this hop.
pub(in crate::upstream::http) fn interim(headers: &mut HeaderMap) {
    Present::in_response(headers).strip(headers);
    headers.remove(header::CONTENT_LENGTH);
}

/// Whether the transfer coding is `chunked`, and nothing else.
pub(super) fn is_chunked_once(headers: &HeaderMap) -> bool {
    let mut fields = headers.get_all(header::TRANSFER_ENCODING).iter();
    let chunked = fields.next().is_some_and(|v| v.as_bytes().eq_ignore_ascii_case(b"chunked"));
    chunked && fields.next().is_none()
}
