//! The sealed token: unforgeable, unreadable, and valid on every gateway that has the keys.
//!
//! 59 bytes, which are 79 characters of URL-safe base64 without padding:
//!
//! | bytes | what |
//! |---|---|
//! | 1 | version (2 bits, now 1) and key id (6 bits) |
//! | 12 | nonce, by chance: two tokens for one backend never look alike |
//! | 8 | tag of the backend's id, sealed as all that follows |
//! | 8 | session, by chance, the same through every move |
//! | 6 | epoch |
//! | 4 | issued, in Unix seconds |
//! | 4 | last sealed, in Unix seconds |
//! | 16 | authentication tag of AES-256-GCM |
//!
//! Purpose, pool and name of the carrier are authenticated with it (associated data).

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use ring::aead::{Aad, NONCE_LEN, Nonce};

use super::{KeyRing, Pin, key_ring::SealingKey};

/// The length of a sealed token in characters.
pub(crate) const SEALED_LEN: usize = 79;

pub(super) const VERSION: u8 = 1;
pub(super) const HEAD_LEN: usize = 1 + NONCE_LEN;
pub(super) const BODY_LEN: usize = 8 + 8 + 6 + 4 + 4;
pub(super) const TAG_LEN: usize = 16;
const RAW_LEN: usize = HEAD_LEN + BODY_LEN + TAG_LEN;

/// What a token is good for: it opens only where this is the same.
#[derive(Debug, Clone)]
pub(crate) struct Context(pub(super) Box<[u8]>);

impl Context {
    pub(crate) fn new(purpose: &str, pool: &str, name: &str) -> Self {
        let mut bytes = Vec::new();
        for part in [purpose, pool, name] {
            bytes.extend_from_slice(&(part.len() as u64).to_le_bytes());
            bytes.extend_from_slice(part.as_bytes());
        }
        Self(bytes.into())
    }
}

/// An opened token.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Opened {
    pub(crate) pin: Pin,
    /// Whether another key than the first had sealed it.
    pub(crate) old_key: bool,
}

/// Why a token cannot be opened.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Unusable {
    /// It is not a sealed token of this version.
    Malformed,
    /// None of our keys sealed it, for this context.
    Forged,
}

/// Opens a token. `now`, in Unix seconds, only serves to warn of unknown keys rarely.
pub(crate) fn open(
    ring: &KeyRing,
    context: &Context,
    token: &[u8],
    now: u64,
) -> Result<Opened, Unusable> {
    if token.len() != SEALED_LEN {
        return Err(Unusable::Malformed);
    }
    let mut raw = [0; RAW_LEN];
    match URL_SAFE_NO_PAD.decode_slice_unchecked(token, &mut raw) {
        Ok(RAW_LEN) => {}
        _ => return Err(Unusable::Malformed),
    }
    let (version, key_id) = (raw[0] >> 6, raw[0] & 0x3f);
    if version != VERSION {
        return Err(Unusable::Malformed);
    }
    let keys = ring.load();
    let mut known = false;
    for (position, key) in keys.iter().enumerate() {
        if key.id != key_id {
            continue;
        }
        known = true;
        if let Some(pin) = open_with(key, context, raw) {
            return Ok(Opened { pin, old_key: position > 0 });
        }
    }
    if !known {
        ring.warn_unknown_key(key_id, now);
    }
    Err(Unusable::Forged)
}

fn open_with(key: &SealingKey, context: &Context, mut raw: [u8; RAW_LEN]) -> Option<Pin> {
    let (head, sealed) = raw.split_at_mut(HEAD_LEN);
    let nonce = Nonce::try_assume_unique_for_key(&head[1..]).ok()?;
    let body = key.aead.open_in_place(nonce, Aad::from(&*context.0), sealed).ok()?;
    pin_of(body)
}

/// The pin in the bytes that [`write_pin`] wrote.
#[inline]
pub(super) fn pin_of(mut body: &[u8]) -> Option<Pin> {
    let mut number = |len: usize| -> Option<u64> {
        let (bytes, rest) = body.split_at_checked(len)?;
        body = rest;
        let mut wide = [0; 8];
        wide[8 - len..].copy_from_slice(bytes);
        Some(u64::from_be_bytes(wide))
    };
    Some(Pin {
        backend: number(8)?,
        session: number(8)?,
        epoch: number(6)?,
        issued: number(4)? as u32,
        seen: number(4)? as u32,
    })
}

/// Seals a pin under the first key of the ring. `None` when the system has no randomness to give:
/// better no token than one with a nonce used twice.
pub(crate) fn seal(ring: &KeyRing, context: &Context, pin: &Pin) -> Option<String> {
    let keys = ring.load();
    let key = keys.first()?;
    let mut raw = [0; RAW_LEN];
    raw[0] = VERSION << 6 | key.id;
    if !ring.fill_random(&mut raw[1..HEAD_LEN]) {
        return None;
    }
    let nonce = Nonce::try_assume_unique_for_key(&raw[1..HEAD_LEN]).ok()?;
    let body = &mut raw[HEAD_LEN..HEAD_LEN + BODY_LEN];
    write_pin(pin, body);
    let tag = key.aead.seal_in_place_separate_tag(nonce, Aad::from(&*context.0), body).ok()?;
    raw[HEAD_LEN + BODY_LEN..].copy_from_slice(tag.as_ref());
    Some(URL_SAFE_NO_PAD.encode(raw))
}

/// Writes a pin into [`BODY_LEN`] bytes.
#[inline]
pub(super) fn write_pin(pin: &Pin, body: &mut [u8]) {
    body[..8].copy_from_slice(&pin.backend.to_be_bytes());
    body[8..16].copy_from_slice(&pin.session.to_be_bytes());
    body[16..22].copy_from_slice(&pin.epoch.to_be_bytes()[2..]);
    body[22..26].copy_from_slice(&pin.issued.to_be_bytes());
    body[26..BODY_LEN].copy_from_slice(&pin.seen.to_be_bytes());
}

/// 64 bits by chance for a new session, never 0.
pub(crate) fn new_session(ring: &KeyRing) -> u64 {
    let mut bytes = [0; 8];
    if ring.fill_random(&mut bytes) { u64::from_ne_bytes(bytes).max(1) } else { 1 }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Key;

    fn ring() -> KeyRing {
        KeyRing::new([Key::from_bytes((0..32).collect::<Vec<u8>>()).unwrap()]).unwrap()
    }

    const PIN: Pin = Pin {
        backend: 0x0102_0304_0506_0708,
        session: 0x1112_1314_1516_1718,
        epoch: 0x2122_2324_2526,
        issued: 0x3132_3334,
        seen: 0x4142_4344,
    };

    #[test]
    fn a_token_says_what_it_was_told() {
        let (ring, context) = (ring(), Context::new("cookie", "default", "SERVER_ID"));
        let token = seal(&ring, &context, &PIN).unwrap();
        assert_eq!(token.len(), SEALED_LEN);
        let opened = open(&ring, &context, token.as_bytes(), 0).unwrap();
        assert_eq!(opened, Opened { pin: PIN, old_key: false });
        assert_ne!(token, seal(&ring, &context, &PIN).unwrap(), "two tokens never look alike");
    }

    #[test]
    fn a_token_is_good_for_its_purpose_pool_and_name_only() {
        let ring = ring();
        let token = seal(&ring, &Context::new("cookie", "a", "bc"), &PIN).unwrap();
        for other in [("header", "a", "bc"), ("cookie", "ab", "c"), ("cookie", "a", "bd")] {
            let other = Context::new(other.0, other.1, other.2);
            assert_eq!(open(&ring, &other, token.as_bytes(), 0), Err(Unusable::Forged));
        }
    }

    #[test]
    fn every_flipped_bit_is_noticed() {
        let (ring, context) = (ring(), Context::new("cookie", "default", "SERVER_ID"));
        let token = seal(&ring, &context, &PIN).unwrap();
        let raw = URL_SAFE_NO_PAD.decode(&token).unwrap();
        for bit in 0..raw.len() * 8 {
            let mut bad = raw.clone();
            bad[bit / 8] ^= 1 << (bit % 8);
            let bad = URL_SAFE_NO_PAD.encode(bad);
            assert!(open(&ring, &context, bad.as_bytes(), 0).is_err(), "bit {bit} was flipped");
        }
        let mut other_spelling = token.into_bytes();
        let last = other_spelling.last_mut().unwrap();
        *last += 1;
        assert!(open(&ring, &context, &other_spelling, 0).is_err(), "one spelling only");
    }

    #[test]
    fn keys_rotate_without_a_token_lost() {
        let (old, new) = (Key::generate().unwrap(), Key::generate().unwrap());
        let context = Context::new("cookie", "default", "SERVER_ID");
        let ring = KeyRing::new([old.clone()]).unwrap();
        let token = seal(&ring, &context, &PIN).unwrap();
        ring.set([new.clone(), old]).unwrap();
        let opened = open(&ring, &context, token.as_bytes(), 0).unwrap();
        assert!(opened.old_key, "it is to be sealed anew");
        assert_eq!(opened.pin, PIN);
        ring.set([new]).unwrap();
        assert_eq!(open(&ring, &context, token.as_bytes(), 0), Err(Unusable::Forged));
    }

    #[test]
    fn the_format_never_changes() {
        let context = Context::new("cookie", "default", "SERVER_ID");
        let opened = open(&ring(), &context, GOLDEN.as_bytes(), 0);
        assert_eq!(opened.map(|opened| opened.pin), Ok(PIN), "tokens in the field look like this");
    }

    /// Made by another implementation of the format (Python).
    const GOLDEN: &str = concat!(
        "R2RlZmdoaWprbG1ub1qRwox6G0MtWGXZN2gwHN5ZxcDLOUIn1ntj",
        "tHJUnFdQk67V89XG-eBds5NKDEc"
    );
}
