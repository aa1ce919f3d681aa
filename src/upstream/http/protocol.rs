//! Which version of HTTP is spoken with a backend.

use std::sync::atomic::{AtomicU8, Ordering};

/// Whether HTTP/2 is spoken with a backend.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Http2 {
    /// Only HTTP/1.1.
    #[default]
    Off,
    /// Only HTTP/2: known in advance in clear text ("prior knowledge", RFC 9113, section 3.3), by ALPN over TLS,
    /// where a backend that does not choose it is one that cannot be reached.
    On,
    /// Over TLS what the backend chooses by ALPN (RFC 7301); in clear text HTTP/1.1.
    Auto,
}

/// `true` is [`Http2::On`], `false` is [`Http2::Off`].
impl From<bool> for Http2 {
    fn from(on: bool) -> Self {
        if on { Self::On } else { Self::Off }
    }
}

/// The protocol of a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Protocol {
    Http1,
    Http2,
}

/// The protocol of a backend, as far as it is known: of one that chooses, the last that it chose.
#[derive(Debug)]
pub(super) struct Chosen(AtomicU8);

const UNKNOWN: u8 = 0;
const HTTP1: u8 = 1;
const HTTP2: u8 = 2;
/// HTTP/1.1 was refused.
const ONLY_HTTP2: u8 = 3;

impl Chosen {
    pub(super) fn new(http2: Http2, is_tls: bool) -> Self {
        Self(AtomicU8::new(match http2 {
            Http2::On => ONLY_HTTP2,
            Http2::Auto if is_tls => UNKNOWN,
            Http2::Off | Http2::Auto => HTTP1,
        }))
    }

    #[inline]
    pub(super) fn get(&self) -> Option<Protocol> {
        match self.0.load(Ordering::Relaxed) {
            HTTP1 => Some(Protocol::Http1),
            HTTP2 | ONLY_HTTP2 => Some(Protocol::Http2),
            _ => None,
        }
    }

    /// Whether HTTP/1.1 is not spoken with the backend, as far as is known.
    pub(super) fn is_only_http2(&self) -> bool {
        self.0.load(Ordering::Relaxed) == ONLY_HTTP2
    }

    /// The backend has refused HTTP/1.1. It may change its mind with its next connection.
    #[cfg(feature = "tls")]
    pub(super) fn set_only_http2(&self) {
        self.0.store(ONLY_HTTP2, Ordering::Relaxed);
    }

    #[cfg(feature = "tls")]
    pub(super) fn set(&self, protocol: Protocol) {
        let value = match protocol {
            Protocol::Http1 => HTTP1,
            Protocol::Http2 => HTTP2,
        };
        self.0.store(value, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_known_in_advance_and_what_was_chosen() {
        let known = |http2, is_tls| {
            let chosen = Chosen::new(http2, is_tls);
            (chosen.get(), chosen.is_only_http2())
        };
        for is_tls in [false, true] {
            assert_eq!(known(Http2::Off, is_tls), (Some(Protocol::Http1), false));
            assert_eq!(known(Http2::On, is_tls), (Some(Protocol::Http2), true));
        }
        assert_eq!(known(Http2::Auto, false), (Some(Protocol::Http1), false));
        assert_eq!(known(Http2::Auto, true), (None, false));
    }

    #[cfg(feature = "tls")]
    #[test]
    fn a_backend_may_choose_again() {
        let chosen = Chosen::new(Http2::Auto, true);
        chosen.set(Protocol::Http2);
        assert_eq!((chosen.get(), chosen.is_only_http2()), (Some(Protocol::Http2), false));
        chosen.set_only_http2();
        assert_eq!((chosen.get(), chosen.is_only_http2()), (Some(Protocol::Http2), true));
        chosen.set(Protocol::Http1);
        assert_eq!((chosen.get(), chosen.is_only_http2()), (Some(Protocol::Http1), false));
    }
}
