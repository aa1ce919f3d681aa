//! The envelope: the session id of an application, sealed together with the pin.
//!
//! `ts2~`, and then in URL-safe base64 without padding:
//!
//! | bytes | what |
//! |---|---|
//! | 1 | version (2 bits, now 2) and key id (6 bits) |
//! | 12 | random nonce |
//! | 38 | the pool and the pin as in a sealed token; encrypted, as all fields below |
//! | 4 | when the application's cookie expires, in Unix seconds; 0: with the browser's session |
//! | 2 | length of the id |
//! | … | the id |
//! | … | the attributes of the application's cookie, each with the `;` before it |
//! | 16 | authentication tag of AES-256-GCM |
//!
//! All numbers are big-endian. Purpose and name of the carrier are authenticated as associated data.
//! An id and attributes that together exceed 2,048 bytes are not sealed, because clients do not store
//! cookies of that size.

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use ring::aead::{Aad, Nonce};

use super::{
    Context, KeyRing, Unusable,
    key_ring::SealingKey,
    pin::Pin,
    sealed::{BODY_LEN, HEAD_LEN, TAG_LEN, VERSION, decrypt},
};

/// The prefix of every envelope, which distinguishes a malformed envelope from a plain id of the
/// application. No application is known to issue ids with it.
const PREFIX: &[u8] = b"ts2~";

const FIXED_LEN: usize = BODY_LEN + 4 + 2;
const MAX_CONTENT: usize = 2048;
const MAX_RAW: usize = HEAD_LEN + FIXED_LEN + MAX_CONTENT + TAG_LEN;

/// The contents of an envelope.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct EnvelopePayload {
    pub(crate) pin: Pin,
    /// When the cookie expires, in Unix seconds; 0 for a cookie that ends with the browser's session.
    pub(crate) expires: u32,
    pub(crate) id: Box<[u8]>,
    /// The attributes of the application's cookie; empty for a header.
    pub(crate) attributes: Box<[u8]>,
}

/// Whether `value` has the prefix of an envelope, of any version.
pub(crate) fn is_envelope(value: &[u8]) -> bool {
    matches!(value, [b't', b's', b'0'..=b'9', b'~', ..])
}

/// Opens an envelope. Also returns the position in the ring of the key that sealed it. `now`, in Unix
/// seconds, limits the rate of warnings about unknown keys.
pub(crate) fn open_envelope(
    ring: &KeyRing,
    context: &Context,
    value: &[u8],
    now: u64,
) -> Result<(EnvelopePayload, usize), Unusable> {
    let text = value.strip_prefix(PREFIX).ok_or(Unusable::Malformed)?;
    if text.len() > MAX_RAW.div_ceil(3) * 4 {
        return Err(Unusable::Malformed);
    }
    let raw = URL_SAFE_NO_PAD.decode(text).map_err(|_| Unusable::Malformed)?;
    if raw.len() < HEAD_LEN + FIXED_LEN + TAG_LEN || raw[0] >> 6 != VERSION {
        return Err(Unusable::Malformed);
    }
    let key_id = raw[0] & 0x3f;
    // A failed attempt overwrites its input.
    let opened = ring.open(key_id, now, |key| open_with(key, context, raw.clone()));
    let (payload, key) = opened.ok_or(Unusable::Forged)?;
    Ok((payload?, key))
}

/// `None` when it was not sealed by this key.
fn open_with(
    key: &SealingKey,
    context: &Context,
    mut raw: Vec<u8>,
) -> Option<Result<EnvelopePayload, Unusable>> {
    let body = decrypt(key, context, &mut raw)?;
    Some(parse_payload(context, body).unwrap_or(Err(Unusable::Malformed)))
}

/// `None` when it is too short.
fn parse_payload(context: &Context, body: &[u8]) -> Option<Result<EnvelopePayload, Unusable>> {
    let (pin, body) = body.split_at_checked(BODY_LEN)?;
    let (expires, body) = body.split_first_chunk()?;
    let (id_len, body) = body.split_first_chunk()?;
    let (id, attributes) = body.split_at_checked(usize::from(u16::from_be_bytes(*id_len)))?;
    let payload = |pin| EnvelopePayload {
        pin,
        expires: u32::from_be_bytes(*expires),
        id: id.into(),
        attributes: attributes.into(),
    };
    Some(context.pin_of(pin).map(payload))
}

/// Seals a payload under the first key of the ring. `None` when it is too long, or the system's random
/// number generator fails.
pub(crate) fn seal_envelope(
    ring: &KeyRing,
    context: &Context,
    payload: &EnvelopePayload,
) -> Option<Vec<u8>> {
    let content = payload.id.len() + payload.attributes.len();
    if content > MAX_CONTENT {
        return None;
    }
    let keys = ring.load();
    let key = keys.first()?;
    let mut raw = Vec::with_capacity(HEAD_LEN + FIXED_LEN + content + TAG_LEN);
    raw.resize(HEAD_LEN + BODY_LEN, 0);
    raw[0] = VERSION << 6 | key.id;
    if !ring.fill_random(&mut raw[1..HEAD_LEN]) {
        return None;
    }
    let nonce = Nonce::try_assume_unique_for_key(&raw[1..HEAD_LEN]).ok()?;
    context.write(&payload.pin, &mut raw[HEAD_LEN..]);
    raw.extend_from_slice(&payload.expires.to_be_bytes());
    raw.extend_from_slice(&u16::try_from(payload.id.len()).ok()?.to_be_bytes());
    raw.extend_from_slice(&payload.id);
    raw.extend_from_slice(&payload.attributes);
    let body = &mut raw[HEAD_LEN..];
    let tag = key.aead.seal_in_place_separate_tag(nonce, Aad::from(&*context.data), body).ok()?;
    raw.extend_from_slice(tag.as_ref());
    let mut value = PREFIX.to_vec();
    value.extend_from_slice(URL_SAFE_NO_PAD.encode(raw).as_bytes());
    Some(value)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::token::Key;

    fn ring() -> KeyRing {
        KeyRing::new([Key::from_bytes((0..32).collect::<Vec<u8>>()).unwrap()]).unwrap()
    }

    fn context() -> Context {
        Context::new("envelope cookie", "default", "JSESSIONID")
    }

    fn payload(id: &[u8], attributes: &[u8]) -> EnvelopePayload {
        let pin = Pin {
            backend: 0x0102_0304_0506_0708,
            session: 0x1112_1314_1516_1718,
            epoch: 0x2122_2324_2526,
            issued: 0x3132_3334,
            seen: 0x4142_4344,
        };
        EnvelopePayload { pin, expires: 0x5152_5354, id: id.into(), attributes: attributes.into() }
    }

    #[test]
    fn a_sealed_payload_is_opened() {
        let (ring, context) = (ring(), context());
        for (id, attributes) in [
            (&b"1"[..], &b""[..]),
            (b"", b""),
            (b"0123456789ABCDEF", b"; Path=/shop; HttpOnly"),
            (b"\"quoted\"\xff", b";\xfe"),
            (&[b'x'; 2000], &[b'y'; 48]),
        ] {
            let payload = payload(id, attributes);
            let value = seal_envelope(&ring, &context, &payload).unwrap();
            assert!(is_envelope(&value));
            assert!(value.len() < 2900, "an envelope fits in a cookie");
            assert_eq!(open_envelope(&ring, &context, &value, 0), Ok((payload, 0)));
        }
        assert!(seal_envelope(&ring, &context, &payload(&[b'x'; 2000], &[b'y'; 49])).is_none());
    }

    #[test]
    fn a_changed_envelope_or_another_context_is_rejected() {
        let (ring, context) = (ring(), context());
        let value = seal_envelope(&ring, &context, &payload(b"id", b"; Path=/")).unwrap();
        let raw = URL_SAFE_NO_PAD.decode(&value[PREFIX.len()..]).unwrap();
        for bit in 0..raw.len() * 8 {
            let mut bad = raw.clone();
            bad[bit / 8] ^= 1 << (bit % 8);
            let bad = [PREFIX, URL_SAFE_NO_PAD.encode(bad).as_bytes()].concat();
            assert!(open_envelope(&ring, &context, &bad, 0).is_err(), "bit {bit} was flipped");
        }
        for len in 0..value.len() {
            let opened = open_envelope(&ring, &context, &value[..len], 0);
            assert!(opened.is_err(), "cut at {len}");
            let raw_len = len.saturating_sub(PREFIX.len()) * 3 / 4;
            if raw_len < HEAD_LEN + FIXED_LEN + TAG_LEN {
                assert_eq!(opened, Err(Unusable::Malformed), "too short for an envelope: {len}");
            }
        }
        let long = [PREFIX, &[b'A'; 100_000]].concat();
        assert_eq!(open_envelope(&ring, &context, &long, 0), Err(Unusable::Malformed));
        for (other, expected) in [
            (Context::new("envelope header", "default", "JSESSIONID"), Unusable::Forged),
            (Context::new("envelope cookie", "default", "sid"), Unusable::Forged),
            (Context::new("envelope cookie", "other", "JSESSIONID"), Unusable::OtherPool),
        ] {
            assert_eq!(open_envelope(&ring, &other, &value, 0), Err(expected));
        }
    }

    #[test]
    fn plain_ids_are_not_envelopes() {
        for id in ["", "ts", "ts2", "tsx~a", "TS1~a", "0123456789ABCDEF", "s%3Aabc.def"] {
            assert!(!is_envelope(id.as_bytes()), "{id:?}");
        }
        assert!(is_envelope(b"ts3~later"), "of a later version");
        assert_eq!(open_envelope(&ring(), &context(), b"ts3~later", 0), Err(Unusable::Malformed));
    }

    #[test]
    fn the_format_is_stable() {
        let opened = open_envelope(&ring(), &context(), GOLDEN.as_bytes(), 0);
        let payload = payload(b"0123456789ABCDEF", b"; Path=/shop; HttpOnly");
        assert_eq!(opened, Ok((payload, 0)), "issued envelopes stay valid");
    }

    /// Computed by an independent implementation of the format (Python).
    const GOLDEN: &str = concat!(
        "ts2~h2RlZmdoaWprbG1ub2w7L0mxBCxYSHXJJ3ggDM5p9fD7CXIB_Gl11hQy_vLoEgzr6rP07Nw7",
        "sWPBvOj-aBDLR5ORL-1KCNXk3JoHvFz44Mm3Z-nEQVxXhgGzzsQFozMYSWnMC7qBTta_ef_UVsZG",
    );
}
