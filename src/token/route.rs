//! Sealed routes: short codes for backends, which clients carry in ids of the application.
//!
//! A code is the first 64 bits of HMAC-SHA-256 (RFC 2104) of pool and backend id, under a key that is derived
//! from one of the ring. It is written in base32 (RFC 4648, section 6) with lower-case letters and without
//! padding: 13 characters.

use std::{fmt, sync::Arc};

use ring::hmac;

use super::{KeyRing, key_ring::SealingKey};
use crate::id::BackendId;

/// The characters of a sealed route.
pub(crate) const ROUTE_LEN: usize = 13;

const ALPHABET: &[u8; 32] = b"abcdefghijklmnopqrstuvwxyz234567";

/// The code of a backend under one key.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct RouteCode(u64);

/// The keys of a ring at one time.
#[derive(Clone)]
pub(crate) struct RouteKeys(Arc<Vec<SealingKey>>);

impl RouteKeys {
    pub(crate) fn of(ring: &KeyRing) -> Self {
        Self(ring.load_full())
    }

    /// Whether they are still the keys of the ring.
    pub(crate) fn are_current(&self, ring: &KeyRing) -> bool {
        Arc::ptr_eq(&self.0, &ring.load())
    }

    /// The codes of a backend, that under the first key first.
    pub(crate) fn codes(&self, pool: &str, backend: &BackendId) -> impl Iterator<Item = RouteCode> {
        self.0.iter().map(move |key| {
            let mut context = hmac::Context::with_key(&key.route);
            context.update(&(pool.len() as u64).to_be_bytes());
            context.update(pool.as_bytes());
            context.update(backend.as_str().as_bytes());
            let tag = context.sign();
            let mut code = [0; 8];
            code.copy_from_slice(&tag.as_ref()[..8]);
            RouteCode(u64::from_be_bytes(code))
        })
    }
}

impl fmt::Debug for RouteKeys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RouteKeys").field("keys", &self.0.len()).finish_non_exhaustive()
    }
}

impl RouteCode {
    /// Reads a code. The case of letters does not matter. `None` when it is not one.
    pub(crate) fn parse(text: &[u8]) -> Option<Self> {
        let text: &[u8; ROUTE_LEN] = text.try_into().ok()?;
        let mut bits = 0_u128;
        for byte in text {
            let digit = match byte.to_ascii_lowercase() {
                letter @ b'a'..=b'z' => letter - b'a',
                number @ b'2'..=b'7' => number - b'2' + 26,
                _ => return None,
            };
            bits = bits << 5 | u128::from(digit);
        }
        // 13 digits of 5 bits are 65 bits: the last one is 0.
        if bits & 1 != 0 {
            return None;
        }
        u64::try_from(bits >> 1).ok().map(Self)
    }
}

impl fmt::Display for RouteCode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let bits = u128::from(self.0) << 1;
        (0..ROUTE_LEN).rev().try_for_each(|digit| {
            let index = (bits >> (5 * digit) & 31) as usize;
            fmt::Write::write_char(f, char::from(ALPHABET[index]))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::token::Key;

    fn key(first: u8) -> Key {
        Key::from_bytes((first..first + 32).collect::<Vec<u8>>()).unwrap()
    }

    fn codes(ring: &KeyRing, pool: &str, id: &str) -> Vec<RouteCode> {
        RouteKeys::of(ring).codes(pool, &BackendId::new(id).unwrap()).collect()
    }

    #[test]
    fn written_codes_are_read_in_either_case() {
        for code in [0, 1, u64::MAX, 0x0123_4567_89ab_cdef].map(RouteCode) {
            let text = code.to_string();
            assert_eq!(text.len(), ROUTE_LEN);
            assert_eq!(RouteCode::parse(text.as_bytes()), Some(code));
            assert_eq!(RouteCode::parse(text.to_uppercase().as_bytes()), Some(code));
        }
    }

    #[test]
    fn other_text_is_no_code() {
        for text in [
            "",
            "aaaaaaaaaaaa",
            "aaaaaaaaaaaaaa",
            "aaaaaaaaaaaa1",
            "aaaaaaaaaaaa.",
            "aaaaaaaaaaaab",
        ] {
            assert_eq!(RouteCode::parse(text.as_bytes()), None, "{text:?}");
        }
    }

    #[test]
    fn codes_depend_on_key_pool_and_backend() {
        let ring = KeyRing::new([key(0), key(1)]).unwrap();
        let own = codes(&ring, "default", "a");
        assert_eq!(
            own,
            codes(&KeyRing::new([key(0), key(1)]).unwrap(), "default", "a"),
            "the same on every gateway"
        );
        let others = [
            codes(&ring, "default", "b"),
            codes(&ring, "other", "a"),
            codes(&KeyRing::new([key(2)]).unwrap(), "default", "a"),
            vec![own[1]],
        ];
        assert!(others.iter().flatten().all(|other| *other != own[0]));
    }

    #[test]
    fn the_format_is_stable() {
        let ring = KeyRing::new([key(0)]).unwrap();
        let code = codes(&ring, "default", "a")[0].to_string();
        assert_eq!(code, GOLDEN, "issued ids stay valid");
    }

    /// Computed by an independent implementation of the format (Python).
    const GOLDEN: &str = "c7abs7iswqd7s";
}
