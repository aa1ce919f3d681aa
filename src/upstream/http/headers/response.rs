//! The head of a response.

use http::{HeaderMap, HeaderValue, StatusCode, Version, header, response::Parts};

use super::common::{Present, is_chunked_once, tokens};
use crate::{error::BoxError, upstream::http::forwarded::Via};

/// Makes a backend's response head into the one that goes to the client. `asked` is what the
/// request wanted to upgrade to.
///
/// An error: the response cannot be passed on.
pub(in crate::upstream::http) fn response(
    parts: &mut Parts,
    via: Option<&Via>,
    asked: Option<&HeaderValue>,
) -> Result<(), BoxError> {
    let headers = &mut parts.headers;
    let upgrade = match parts.status {
        StatusCode::SWITCHING_PROTOCOLS => Some(accepted(headers, asked)?),
        // It must name the protocols that are required (RFC 9110, section 15.5.22).
        StatusCode::UPGRADE_REQUIRED => headers.get(header::UPGRADE).cloned(),
        _ => None,
    };
    let present = Present::in_response(headers);
    if present.transfer_encoding {
        // The field is removed, so that another coding would be lost while the body still has it.
        if !is_chunked_once(headers) {
            return Err("the backend answered with a transfer coding other than chunked".into());
        }
        // Then the end of the body is uncertain (RFC 9112, section 6.1).
        if parts.version == Version::HTTP_10 {
            return Err("the backend answered with a transfer coding in HTTP/1.0".into());
        }
    }
    present.strip(headers);
    if present.content_length {
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
