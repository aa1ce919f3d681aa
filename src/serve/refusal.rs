//! Requests that are answered before they reach the service: malformed ones, and those beyond a limit.

use std::{fmt, sync::Arc};

use http::{HeaderMap, HeaderValue, Method, Request, StatusCode, Version, header};
use http_body::Body;

use super::bodies::RequestBody;

/// The largest request that is served.
#[derive(Debug, Clone, Copy)]
pub(super) struct RequestLimits {
    /// Bytes of all header fields, as HTTP/1.1 has them; 431 beyond.
    pub(super) header_bytes: usize,
    /// Header fields; 431 beyond. hyper allocates for each request when they are more than its 100.
    pub(super) headers: usize,
    /// Bytes of the request target; 414 beyond.
    pub(super) target_bytes: usize,
    /// Bytes of the body; 413 beyond.
    pub(super) body_bytes: u64,
}

/// How many fields hyper takes without an allocation of its own.
pub(super) const DEFAULT_HEADERS: usize = 100;

impl Default for RequestLimits {
    fn default() -> Self {
        Self {
            header_bytes: 64 << 10,
            headers: DEFAULT_HEADERS,
            target_bytes: 16 << 10,
            body_bytes: u64::MAX,
        }
    }
}

/// Is told of each request that is refused.
#[derive(Clone, Default)]
pub(super) struct OnRefusal(Option<Arc<ObserveRefusal>>);

type ObserveRefusal = dyn Fn(&Request<RequestBody>, StatusCode) + Send + Sync;

impl OnRefusal {
    pub(super) fn new(
        observe: impl Fn(&Request<RequestBody>, StatusCode) + Send + Sync + 'static,
    ) -> Self {
        Self(Some(Arc::new(observe)))
    }

    pub(super) fn tell(&self, request: &Request<RequestBody>, status: StatusCode) {
        if let Some(observe) = &self.0 {
            observe(request, status);
        }
    }
}

impl fmt::Debug for OnRefusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("OnRefusal").field(&self.0.is_some()).finish()
    }
}

/// The status for a request that hyper accepts and no backend should see.
pub(super) fn refusal<B: Body>(request: &Request<B>, limits: &RequestLimits) -> Option<StatusCode> {
    if request.method() == Method::CONNECT {
        // A gateway opens no tunnels.
        return Some(StatusCode::NOT_IMPLEMENTED);
    }
    let target = target(request, limits.target_bytes).err();
    let refused = target.or_else(|| host(request).err()).or_else(|| fields(request, limits).err());
    if refused.is_none() && request.body().size_hint().lower() > limits.body_bytes {
        return Some(StatusCode::PAYLOAD_TOO_LARGE);
    }
    refused
}

/// Origin form, absolute form, or the `*` of OPTIONS (RFC 9112, section 3.2; RFC 9113, section 8.3.1).
fn target<B>(request: &Request<B>, limit: usize) -> Result<(), StatusCode> {
    let uri = request.uri();
    let path = uri.path();
    if !path.starts_with('/') && (path != "*" || request.method() != Method::OPTIONS) {
        return Err(StatusCode::BAD_REQUEST);
    }
    let query = uri.query().map_or(0, |query| query.len() + 1);
    match uri.authority() {
        // User information is an error in a reference from an untrusted source (RFC 9110, section 4.2.4).
        Some(authority) if authority.as_str().contains('@') => Err(StatusCode::BAD_REQUEST),
        _ if path.len() + query > limit => Err(StatusCode::URI_TOO_LONG),
        _ => Ok(()),
    }
}

/// One valid `Host` (RFC 9112, section 3.2). In HTTP/2 `:authority` takes its place, and one that differs
/// is an error (RFC 9113, section 8.3.1).
fn host<B>(request: &Request<B>) -> Result<(), StatusCode> {
    let mut hosts = request.headers().get_all(header::HOST).iter();
    let valid = match (hosts.next(), hosts.next()) {
        (Some(host), None) => {
            is_host(host.as_bytes())
                && match request.uri().authority() {
                    Some(authority) if request.version() >= Version::HTTP_2 => {
                        authority.as_str().as_bytes().eq_ignore_ascii_case(host.as_bytes())
                    }
                    _ => true,
                }
        }
        (None, _) => request.version() != Version::HTTP_11,
        (Some(_), Some(_)) => false,
    };
    if valid { Ok(()) } else { Err(StatusCode::BAD_REQUEST) }
}

/// Whether it is `uri-host [ ":" port ]` (RFC 9110, section 7.2; RFC 3986, section 3.2.2). An empty one is
/// valid: the target may have no authority.
fn is_host(value: &[u8]) -> bool {
    let (is_host, rest) = match value.strip_prefix(b"[") {
        Some(literal) => {
            let end = literal.iter().position(|byte| *byte == b']').unwrap_or(literal.len());
            let (address, rest) = literal.split_at(end);
            let in_address = |byte: &u8| byte.is_ascii_hexdigit() || b":.".contains(byte);
            let valid = !address.is_empty() && address.iter().all(in_address);
            (valid && !rest.is_empty(), rest.get(1..).unwrap_or_default())
        }
        None => {
            let end = value.iter().position(|byte| *byte == b':').unwrap_or(value.len());
            let (name, rest) = value.split_at(end);
            (name.iter().all(is_in_name), rest)
        }
    };
    let port = rest.strip_prefix(b":").unwrap_or(rest);
    is_host && port.iter().all(u8::is_ascii_digit) && (rest.is_empty() || rest[0] == b':')
}

/// `reg-name`, with `%` for its encoded bytes.
fn is_in_name(byte: &u8) -> bool {
    IN_NAME[usize::from(*byte)]
}

/// Which bytes these are: a look at a table costs less than a search.
const IN_NAME: [bool; 256] = {
    let (mut table, mut byte) = ([false; 256], 0);
    while byte < 128 {
        table[byte] = (byte as u8).is_ascii_alphanumeric();
        byte += 1;
    }
    let others = b"-._~%!$&'()*+,;=";
    let mut position = 0;
    while position < others.len() {
        table[others[position] as usize] = true;
        position += 1;
    }
    table
};

/// Fields that would be forwarded as something else, or are too many.
fn fields<B>(request: &Request<B>, limits: &RequestLimits) -> Result<(), StatusCode> {
    let headers = request.headers();
    if headers.len() > limits.headers {
        return Err(StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE);
    }
    // One walk: a look-up for each of the fields costs more.
    let (mut bytes, mut has_coding, mut expects) = (0, false, false);
    for (name, value) in headers {
        // A colon, a space and CRLF for each.
        bytes += name.as_str().len() + value.len() + 4;
        has_coding |= name == header::TRANSFER_ENCODING;
        expects |= name == header::EXPECT;
    }
    if bytes > limits.header_bytes {
        return Err(StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE);
    }
    if has_coding {
        transfer_coding(headers)?;
    }
    if expects && !is_continue(headers) {
        return Err(StatusCode::EXPECTATION_FAILED);
    }
    Ok(())
}

/// `chunked` once: another coding would be lost on the way (RFC 9112, section 6.1).
fn transfer_coding(headers: &HeaderMap) -> Result<(), StatusCode> {
    let codings = || {
        let fields = headers.get_all(header::TRANSFER_ENCODING).iter();
        let codings = fields.flat_map(|value| value.as_bytes().split(|byte| *byte == b','));
        codings.map(<[u8]>::trim_ascii).filter(|coding| !coding.is_empty())
    };
    let is_chunked = |coding: &[u8]| coding.eq_ignore_ascii_case(b"chunked");
    match codings().count() {
        1 if codings().all(is_chunked) => Ok(()),
        _ if codings().all(is_chunked) => Err(StatusCode::BAD_REQUEST),
        _ => Err(StatusCode::NOT_IMPLEMENTED),
    }
}

/// The only expectation that there is (RFC 9110, section 10.1.1).
fn is_continue(headers: &HeaderMap) -> bool {
    let mut fields = headers.get_all(header::EXPECT).iter();
    let first = fields.next().map_or(&b""[..], HeaderValue::as_bytes);
    fields.next().is_none() && first.eq_ignore_ascii_case(b"100-continue")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hosts() {
        for host in
            ["a", "a:80", "a:", "", "1.2.3.4:5", "[::1]", "[::1]:80", "a_b.c~", "%41", "a,b"]
        {
            assert!(is_host(host.as_bytes()), "{host:?}");
        }
        for host in ["a/b", "u@a", "u:p@a", "a, b", "a b", "a:b", "a:1:2", "[::1", "[::1]x", "[]"] {
            assert!(!is_host(host.as_bytes()), "{host:?}");
        }
    }
}
