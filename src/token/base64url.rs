//! URL-safe base64 without padding (RFC 4648, section 5).
//!
//! The crate `base64` decodes with more checks than a text of known length needs, which takes twice as long for a
//! token. Tests compare the two.

/// What no character has.
const INVALID: u8 = 0x80;

/// The value of each character.
const VALUES: [u8; 256] = {
    let alphabet = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
    let (mut values, mut value) = ([INVALID; 256], 0);
    while value < alphabet.len() {
        values[alphabet[value] as usize] = value as u8;
        value += 1;
    }
    values
};

/// Decodes `text` into `out`, which has the very length of the result. `None` when `text` is not valid, or not in the
/// only form that encodes these bytes.
///
/// It takes the same time for all texts of a length.
#[inline]
pub(super) fn decode(text: &[u8], out: &mut [u8]) -> Option<()> {
    let (groups, rest) = text.as_chunks::<4>();
    let (triples, last) = out.as_chunks_mut::<3>();
    if groups.len() != triples.len() {
        return None;
    }
    let mut all = 0;
    for (group, triple) in groups.iter().zip(triples) {
        let [a, b, c, d] = group.map(value);
        all |= a | b | c | d;
        let bits = a << 18 | b << 12 | c << 6 | d;
        [_, triple[0], triple[1], triple[2]] = bits.to_be_bytes();
    }
    // The bits that are left of the last character are 0.
    let unused = match (rest, last) {
        ([], []) => 0,
        (&[a, b], [first]) => {
            let (a, b) = (value(a), value(b));
            all |= a | b;
            *first = (a << 2 | b >> 4) as u8;
            b & 0xf
        }
        (&[a, b, c], [first, second]) => {
            let (a, b, c) = (value(a), value(b), value(c));
            all |= a | b | c;
            *first = (a << 2 | b >> 4) as u8;
            *second = (b << 4 | c >> 2) as u8;
            c & 0x3
        }
        _ => return None,
    };
    (all & u32::from(INVALID) == 0 && unused == 0).then_some(())
}

fn value(character: u8) -> u32 {
    VALUES[usize::from(character)].into()
}

#[cfg(test)]
mod tests {
    use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};

    use super::*;

    fn decoded(text: &[u8], len: usize) -> Option<Vec<u8>> {
        let mut out = vec![0; len];
        decode(text, &mut out).map(|()| out)
    }

    #[test]
    fn every_length_is_decoded() {
        let bytes: Vec<u8> = (0..100_u8).map(|byte| byte.wrapping_mul(167)).collect();
        for len in 0..bytes.len() {
            let text = URL_SAFE_NO_PAD.encode(&bytes[..len]);
            assert_eq!(decoded(text.as_bytes(), len).as_deref(), Some(&bytes[..len]), "{len}");
            assert_eq!(decoded(text.as_bytes(), len + 1), None, "{len}");
            assert_eq!(decoded(text.as_bytes(), len + 3), None, "{len}");
        }
    }

    #[test]
    fn every_byte_at_every_position_means_what_it_means_to_another_decoder() {
        for len in [66, 67, 68] {
            let text = URL_SAFE_NO_PAD.encode(vec![0xa5; len]).into_bytes();
            for position in 0..text.len() {
                for byte in 0..=u8::MAX {
                    let mut text = text.clone();
                    text[position] = byte;
                    assert_eq!(decoded(&text, len), URL_SAFE_NO_PAD.decode(&text).ok(), "{text:?}");
                }
            }
        }
    }

    #[test]
    fn a_text_of_one_character_more_is_refused() {
        let text = URL_SAFE_NO_PAD.encode([7; 66]);
        assert_eq!(decoded(format!("{text}A").as_bytes(), 66), None);
        assert_eq!(decoded(&text.as_bytes()[1..], 66), None);
    }
}
