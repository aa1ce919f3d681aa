//! The sealed token: encrypted and authenticated, and valid on every gateway that has the keys.
//!
//! 67 bytes, which are 90 characters of URL-safe base64 without padding:
//!
//! | bytes | what |
//! |---|---|
//! | 1 | version (2 bits, now 2) and key id (6 bits) |
//! | 12 | random nonce, so that all tokens differ |
//! | 8 | tag of the pool: the first bytes of the SHA-256 of its name; encrypted, as all fields below |
//! | 8 | tag of the backend's id |
//! | 8 | random session identifier, which stays the same when the session moves |
//! | 6 | epoch |
//! | 4 | issued, in Unix seconds |
//! | 4 | last sealed, in Unix seconds |
//! | 16 | authentication tag of AES-256-GCM |
//!
//! Purpose and name of the carrier are authenticated as associated data.

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use ring::{
    aead::{Aad, NONCE_LEN, Nonce},
    digest::{SHA256, digest},
};

use super::{KeyRing, key_ring::SealingKey, pin::Pin};

/// The length of a sealed token in characters.
pub(crate) const SEALED_LEN: usize = 90;

pub(super) const VERSION: u8 = 2;
pub(super) const HEAD_LEN: usize = 1 + NONCE_LEN;
/// The tag of the pool.
pub(super) const POOL_LEN: usize = 8;
const PIN_LEN: usize = 8 + 8 + 6 + 4 + 4;
/// The pool and the pin.
pub(super) const BODY_LEN: usize = POOL_LEN + PIN_LEN;
pub(super) const TAG_LEN: usize = 16;
const RAW_LEN: usize = HEAD_LEN + BODY_LEN + TAG_LEN;

/// The context for which a token is valid: it opens only for the same purpose and name, and is accepted
/// only by the same pool.
#[derive(Debug, Clone)]
pub(crate) struct Context {
    /// The associated data of each token.
    pub(super) data: Box<[u8]>,
    pool: u64,
}

impl Context {
    pub(crate) fn new(purpose: &str, pool: &str, name: &str) -> Self {
        let mut data = Vec::new();
        for part in [purpose, name] {
            data.extend_from_slice(&(part.len() as u64).to_le_bytes());
            data.extend_from_slice(part.as_bytes());
        }
        let pool = digest(&SHA256, pool.as_bytes());
        let pool = pool.as_ref().first_chunk().copied().map_or(0, u64::from_be_bytes);
        Self { data: data.into(), pool }
    }

    /// Parses the pin in an opened body, and checks its pool.
    #[inline]
    pub(super) fn pin_of(&self, body: &[u8]) -> Result<Pin, Unusable> {
        let (pool, body) = body.split_first_chunk().ok_or(Unusable::Malformed)?;
        // One XOR takes the same time for all values.
        if u64::from_be_bytes(*pool) ^ self.pool != 0 {
            return Err(Unusable::OtherPool);
        }
        parse_pin(body).ok_or(Unusable::Malformed)
    }

    /// Writes the pool and a pin into [`BODY_LEN`] bytes.
    #[inline]
    pub(super) fn write(&self, pin: &Pin, body: &mut [u8]) {
        body[..POOL_LEN].copy_from_slice(&self.pool.to_be_bytes());
        write_pin(pin, &mut body[POOL_LEN..]);
    }
}

/// An opened token.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Opened {
    pub(crate) pin: Pin,
    /// The position in the ring of the key that sealed it.
    pub(crate) key: usize,
}

/// Why a token cannot be opened.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Unusable {
    /// It is not a sealed token of this version.
    Malformed,
    /// It was not sealed by one of the keys for this purpose and name.
    Forged,
    /// It is valid for another pool with the same keys.
    OtherPool,
}

/// Opens a token. `now`, in Unix seconds, limits the rate of warnings about unknown keys.
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
    let opened = ring.open(key_id, now, |key| open_with(key, context, raw));
    let (pin, key) = opened.ok_or(Unusable::Forged)?;
    Ok(Opened { pin: pin?, key })
}

/// `None` when it was not sealed by this key.
fn open_with(
    key: &SealingKey,
    context: &Context,
    mut raw: [u8; RAW_LEN],
) -> Option<Result<Pin, Unusable>> {
    decrypt(key, context, &mut raw).map(|body| context.pin_of(body))
}

/// Decrypts a token or an envelope in place, and returns its body. `None` when it was not sealed by this
/// key.
#[inline]
pub(super) fn decrypt<'a>(
    key: &SealingKey,
    context: &Context,
    raw: &'a mut [u8],
) -> Option<&'a [u8]> {
    let (head, sealed) = raw.split_at_mut_checked(HEAD_LEN)?;
    let nonce = Nonce::try_assume_unique_for_key(head.get(1..)?).ok()?;
    let body = key.aead.open_in_place(nonce, Aad::from(&*context.data), sealed).ok()?;
    Some(body)
}

/// Parses the bytes that [`write_pin`] wrote.
#[inline]
fn parse_pin(mut body: &[u8]) -> Option<Pin> {
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

/// Seals a pin under the first key of the ring. `None` when the system's random number
/// generator fails, because a nonce must not be used twice.
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
    context.write(pin, body);
    let tag = key.aead.seal_in_place_separate_tag(nonce, Aad::from(&*context.data), body).ok()?;
    raw[HEAD_LEN + BODY_LEN..].copy_from_slice(tag.as_ref());
    Some(URL_SAFE_NO_PAD.encode(raw))
}

/// Writes a pin into [`PIN_LEN`] bytes.
#[inline]
fn write_pin(pin: &Pin, body: &mut [u8]) {
    body[..8].copy_from_slice(&pin.backend.to_be_bytes());
    body[8..16].copy_from_slice(&pin.session.to_be_bytes());
    body[16..22].copy_from_slice(&pin.epoch.to_be_bytes()[2..]);
    body[22..26].copy_from_slice(&pin.issued.to_be_bytes());
    body[26..PIN_LEN].copy_from_slice(&pin.seen.to_be_bytes());
}

/// A random identifier for a new session, never 0.
pub(crate) fn new_session(ring: &KeyRing) -> u64 {
    let mut bytes = [0; 8];
    if ring.fill_random(&mut bytes) { u64::from_ne_bytes(bytes).max(1) } else { 1 }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::token::Key;

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
    fn a_sealed_pin_is_opened() {
        let (ring, context) = (ring(), Context::new("cookie", "default", "SERVER_ID"));
        let token = seal(&ring, &context, &PIN).unwrap();
        assert_eq!(token.len(), SEALED_LEN);
        let opened = open(&ring, &context, token.as_bytes(), 0).unwrap();
        assert_eq!(opened, Opened { pin: PIN, key: 0 });
        assert_ne!(token, seal(&ring, &context, &PIN).unwrap(), "each token has another nonce");
    }

    #[test]
    fn a_token_is_valid_for_its_purpose_pool_and_name_only() {
        let ring = ring();
        let token = seal(&ring, &Context::new("cookie", "a", "bc"), &PIN).unwrap();
        for (other, expected) in [
            (("header", "a", "bc"), Unusable::Forged),
            (("cookie", "a", "bd"), Unusable::Forged),
            (("cookieb", "a", "c"), Unusable::Forged),
            (("cookie", "b", "bc"), Unusable::OtherPool),
            (("cookie", "", "bc"), Unusable::OtherPool),
        ] {
            let other = Context::new(other.0, other.1, other.2);
            assert_eq!(open(&ring, &other, token.as_bytes(), 0), Err(expected));
        }
    }

    #[test]
    fn every_flipped_bit_is_rejected() {
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
        assert!(
            open(&ring, &context, &other_spelling, 0).is_err(),
            "only the canonical base64 encoding is accepted"
        );
    }

    #[test]
    fn tokens_stay_valid_while_keys_rotate() {
        let (old, new) = (Key::generate().unwrap(), Key::generate().unwrap());
        let context = Context::new("cookie", "default", "SERVER_ID");
        let ring = KeyRing::new([old.clone()]).unwrap();
        let token = seal(&ring, &context, &PIN).unwrap();
        ring.set([new.clone(), old]).unwrap();
        let opened = open(&ring, &context, token.as_bytes(), 0).unwrap();
        assert!(opened.key > 0, "a token of an older key is due for a refresh");
        assert_eq!(opened.pin, PIN);
        ring.set([new]).unwrap();
        assert_eq!(open(&ring, &context, token.as_bytes(), 0), Err(Unusable::Forged));
    }

    #[test]
    fn the_format_is_stable() {
        let context = Context::new("cookie", "default", "SERVER_ID");
        let opened = open(&ring(), &context, GOLDEN.as_bytes(), 0);
        assert_eq!(opened.map(|opened| opened.pin), Ok(PIN), "issued tokens stay valid");
    }

    /// Computed by an independent implementation of the format (Python).
    const GOLDEN: &str = concat!(
        "h2RlZmdoaWprbG1ub2w7L0mxBCxYSHXJJ3ggDM5p9fD7CXIB_Gl1",
        "1hQy_vLoEgzr6rP0BuJdpcbplAYnNwVbAJAMjw"
    );
}
