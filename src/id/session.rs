//! `SessionId`, the identifier of a session, and its hash for logs.

use std::{
    fmt,
    hash::{BuildHasher, RandomState},
};

/// The opaque identifier of a session, which stays the same when the session moves.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct SessionId(u64);

impl SessionId {
    pub(crate) fn new(session: u64) -> Self {
        Self(session)
    }

    /// The id whose [`Display`](fmt::Display) is `hex`.
    pub(crate) fn from_hex(hex: &str) -> Option<Self> {
        let digits = hex.len() == 16 && hex.bytes().all(|byte| byte.is_ascii_hexdigit());
        digits.then(|| u64::from_str_radix(hex, 16).ok().map(Self)).flatten()
    }

    /// The id as a number, for use as a key of a table.
    pub fn to_bits(self) -> u64 {
        self.0
    }
}

/// 16 hexadecimal digits.
impl fmt::Display for SessionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}", self.0)
    }
}

impl fmt::Debug for SessionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SessionId({self})")
    }
}

/// A keyed hash of a session, for logs: the same for all requests of the session while the process runs. It is no
/// token, and the session's id cannot be computed from it.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct SessionHash(u64);

impl SessionHash {
    pub(crate) fn new(key: &RandomState, session: u64) -> Self {
        Self(key.hash_one(session))
    }
}

/// 16 hexadecimal digits.
impl fmt::Display for SessionHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}", self.0)
    }
}

impl fmt::Debug for SessionHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SessionHash({self})")
    }
}
