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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_fields_that_may_come_last_are_kept() {
        let trailers = |names: &[&'static str]| -> HeaderMap {
            let fields = names
                .iter()
                .map(|name| (HeaderName::from_static(name), http::HeaderValue::from_static("x")));
            fields.collect()
        };
        let kept = |names: &[&'static str]| {
            let frame = allowed(Frame::trailers(trailers(names)))?;
            let trailers = frame.into_trailers().unwrap();
            Some(trailers.keys().map(|name| name.as_str().to_owned()).collect::<Vec<_>>())
        };
        let all = [
            "grpc-status",
            "set-cookie",
            "content-length",
            "keep-alive",
            "proxy-connection",
            "x-sticky-session",
            "x-forwarded-for",
        ];
        assert_eq!(kept(&all), Some(vec!["grpc-status".to_owned()]));
        assert_eq!(kept(&all[1..]), None, "nothing is left");
        let data = allowed(Frame::data(Bytes::from_static(b"x"))).unwrap();
        assert_eq!(data.into_data().unwrap(), "x");
    }
}
