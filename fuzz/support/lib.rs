//! What the fuzz targets share: a gateway over backends that record their requests, keys, and references.

pub mod cookie_edit;
#[path = "../../tests/heavy/properties/cookie_model.rs"]
pub mod cookie_model;
mod gateway;
pub mod raw;

pub use gateway::{Answer, Echo, Gateway, Sent, gateway, send, two};

use bytes::Bytes;
use http::HeaderValue;
use tower_sticky::{Key, KeyRing};

/// A key; the same number makes the same key.
pub fn key(number: u8) -> Key {
    Key::from_bytes((0..32).map(|i| number.wrapping_add(i)).collect::<Vec<u8>>()).expect("32 bytes")
}

/// A key ring of one key.
pub fn keys(number: u8) -> KeyRing {
    KeyRing::new([key(number)]).expect("one key")
}

/// A value of a header: bytes that cannot stand in one are replaced.
pub fn header_value(bytes: &[u8]) -> HeaderValue {
    let allowed = |byte: &u8| match *byte {
        b'\t' | b' '..=b'~' | 0x80.. => *byte,
        _ => b';',
    };
    let bytes: Bytes = bytes.iter().map(allowed).collect();
    HeaderValue::from_maybe_shared(bytes).expect("each byte may stand in a header")
}

/// The fields of a header: one a line.
pub fn fields(bytes: &[u8]) -> Vec<HeaderValue> {
    bytes.split(|byte| *byte == b'\n').map(header_value).collect()
}
