//! Trailers: which fields may stand in them (RFC 9110, section 6.5.1).

use bytes::Bytes;
use http::{HeaderMap, HeaderName, header};
use http_body::Frame;

use super::{
    forwarded::{self, Kind},
    headers::is_ours,
};

/// The frame without the trailer fields that are not allowed; `None` when nothing is left of it.
pub(super) fn allowed(frame: Frame<Bytes>) -> Option<Frame<Bytes>> {
    match frame.into_trailers() {
        Ok(mut trailers) => {
            remove_forbidden(&mut trailers);
            (!trailers.is_empty()).then(|| Frame::trailers(trailers))
        }
        Err(frame) => Some(frame),
    }
}

/// Removes what would change the framing, routing, caching or authentication of a message that has been
/// acted on already, or how its content is read.
fn remove_forbidden(trailers: &mut HeaderMap) {
    let names: Vec<_> = trailers.keys().filter(|name| is_forbidden(name)).cloned().collect();
    for name in names {
        trailers.remove(name);
    }
}

fn is_forbidden(name: &HeaderName) -> bool {
    const FORBIDDEN: [HeaderName; 25] = [
        header::AUTHORIZATION,
        header::CACHE_CONTROL,
        header::CONNECTION,
        header::CONTENT_ENCODING,
        header::CONTENT_LENGTH,
        header::CONTENT_RANGE,
        header::CONTENT_TYPE,
        header::COOKIE,
        header::EXPECT,
        header::HOST,
        header::IF_MATCH,
        header::IF_MODIFIED_SINCE,
        header::IF_NONE_MATCH,
        header::IF_RANGE,
        header::IF_UNMODIFIED_SINCE,
        header::MAX_FORWARDS,
        header::PROXY_AUTHENTICATE,
        header::PROXY_AUTHORIZATION,
        header::RANGE,
        header::SET_COOKIE,
        header::TE,
        header::TRAILER,
        header::TRANSFER_ENCODING,
        header::UPGRADE,
        header::WWW_AUTHENTICATE,
    ];
    FORBIDDEN.contains(name)
        || matches!(name.as_str(), "keep-alive" | "proxy-connection" | "http2-settings")
        || is_ours(name.as_str().as_bytes())
        || !matches!(forwarded::kind(name.as_str()), Kind::Other)
}
