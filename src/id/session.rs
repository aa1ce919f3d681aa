//! `SessionId`, the identifier of a session.

use std::fmt;

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
