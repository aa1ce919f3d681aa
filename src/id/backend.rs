//! `BackendId`, the stable name of a backend.

use std::{borrow::Borrow, fmt, hash::Hasher as _, str::FromStr, sync::Arc};

use siphasher::sip::SipHasher13;

use crate::error::ConfigError;

/// The longest id, in bytes.
pub(crate) const MAX_ID_LEN: usize = 128;

/// The stable name of a backend, which pins refer to on every gateway and after every restart.
///
/// 1 to 128 bytes of visible ASCII without `"`, `,`, `;` and `\`, so that it can be the
/// value of a cookie or a header; not `.` or `..`. Do not use an index or an address: a backend that moves to another
/// address must keep its id to keep its sessions.
///
/// # Example
///
/// ```
/// use tower_sticky::BackendId;
///
/// let id: BackendId = "shop-1".parse()?;
/// assert_eq!(id.as_str(), "shop-1");
/// assert!("".parse::<BackendId>().is_err());
/// assert!("a;b".parse::<BackendId>().is_err());
/// # Ok::<(), tower_sticky::ConfigError>(())
/// ```
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct BackendId(Arc<str>);

impl BackendId {
    /// Creates an id after checking its characters and length.
    ///
    /// # Errors
    ///
    /// When `id` is empty, longer than 128 bytes, `.` or `..`, or has a character that is not allowed.
    pub fn new(id: impl AsRef<str>) -> Result<Self, ConfigError> {
        let id = id.as_ref();
        if id.is_empty() {
            return Err(ConfigError::new(
                "a backend id is empty; give every backend a stable name such as \"a\"",
            ));
        }
        // Clients resolve these in a path, so that no request for such a backend would reach the admin interface.
        if matches!(id, "." | "..") {
            return Err(ConfigError::new(format!(
                "the backend id {id:?} is not a name; give every backend a stable name such as \"a\""
            )));
        }
        if id.len() > MAX_ID_LEN {
            return Err(ConfigError::new(format!(
                "the backend id {id:?} has {} bytes; use at most {MAX_ID_LEN}",
                id.len()
            )));
        }
        if let Some(bad) = id.chars().find(|&c| !c.is_ascii() || !allowed(c as u8)) {
            return Err(ConfigError::new(format!(
                "the backend id {id:?} contains {bad:?}; use visible ASCII without space, '\"', \
                 ',', ';' and '\\'"
            )));
        }
        Ok(Self(id.into()))
    }

    /// The id as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// A 64-bit hash that identifies the backend in sealed tokens, indexes and hashes. It is the same in
    /// every process, on every platform and in every version.
    pub(crate) fn tag(&self) -> u64 {
        tag(self.0.as_bytes())
    }
}

/// Whether `byte` is allowed in an id: a cookie octet of RFC 6265, section 4.1.1.
pub(crate) const fn allowed(byte: u8) -> bool {
    matches!(byte, 0x21 | 0x23..=0x2b | 0x2d..=0x3a | 0x3c..=0x5b | 0x5d..=0x7e)
}

/// SipHash-1-3 under a fixed key: a good 64-bit hash, not a secret.
pub(crate) fn tag(id: &[u8]) -> u64 {
    const K0: u64 = u64::from_le_bytes(*b"tower-st");
    const K1: u64 = u64::from_le_bytes(*b"icky/id1");
    let mut hasher = SipHasher13::new_with_keys(K0, K1);
    hasher.write(id);
    hasher.finish()
}

impl fmt::Display for BackendId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for BackendId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&*self.0, f)
    }
}

impl FromStr for BackendId {
    type Err = ConfigError;

    fn from_str(id: &str) -> Result<Self, ConfigError> {
        Self::new(id)
    }
}

impl AsRef<str> for BackendId {
    fn as_ref(&self) -> &str {
        &self.0
    }
}

impl Borrow<str> for BackendId {
    fn borrow(&self) -> &str {
        &self.0
    }
}

impl PartialEq<str> for BackendId {
    fn eq(&self, other: &str) -> bool {
        &*self.0 == other
    }
}

impl PartialEq<&str> for BackendId {
    fn eq(&self, other: &&str) -> bool {
        &*self.0 == *other
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_are_checked() {
        for good in ["a", "...", "10.0.0.1:8080", "node_1/eu", &"x".repeat(128)] {
            assert!(BackendId::new(good).is_ok(), "{good:?} is a good id");
        }
        for bad in ["", ".", "..", " ", "a b", "a,b", "a\"", "ä", "a\n", "a\\", &"x".repeat(129)] {
            assert!(BackendId::new(bad).is_err(), "{bad:?} is not an id");
        }
    }

    #[test]
    fn the_tag_is_stable() {
        assert_eq!(tag(b"a"), 0x37d3_0561_d6c6_dc66, "issued tokens contain this value");
    }
}
