//! `Key` and `KeyRing`, the keys that seal and open tokens.

use std::{
    fmt,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
};

use arc_swap::ArcSwap;
use base64::{Engine, engine::general_purpose};
use ring::{
    aead::{AES_256_GCM, LessSafeKey, UnboundKey},
    hmac,
    rand::{SecureRandom, SystemRandom},
};

use crate::error::ConfigError;

/// The fewest bytes of a secret.
const MIN_SECRET: usize = 32;

/// One secret of a [`KeyRing`]: at least 32 random bytes.
///
/// # Example
///
/// ```
/// use tower_sticky::Key;
///
/// let key = Key::generate()?;
/// let written = key.to_base64(); // store it as a secret
/// let again = Key::from_base64(&written)?;
/// assert_eq!(format!("{again:?}"), "Key(..)");
/// # Ok::<(), tower_sticky::ConfigError>(())
/// ```
#[derive(Clone)]
pub struct Key {
    secret: Arc<[u8]>,
}

impl Key {
    /// A new random key.
    ///
    /// # Errors
    ///
    /// When the system's random number generator fails.
    pub fn generate() -> Result<Self, ConfigError> {
        let mut secret = [0; MIN_SECRET];
        SystemRandom::new()
            .fill(&mut secret)
            .map_err(|_| ConfigError::new("the system's random number generator failed"))?;
        Self::from_bytes(secret)
    }

    /// A key of at least 32 secret bytes.
    ///
    /// # Errors
    ///
    /// When there are fewer bytes, or all are equal.
    pub fn from_bytes(secret: impl AsRef<[u8]>) -> Result<Self, ConfigError> {
        let secret = secret.as_ref();
        if secret.len() < MIN_SECRET {
            return Err(ConfigError::new(format!(
                "a key has {} bytes; use at least {MIN_SECRET} random ones, for example from \
                 `openssl rand -base64 32`",
                secret.len()
            )));
        }
        if secret.iter().all(|byte| *byte == secret[0]) {
            return Err(ConfigError::new(
                "a key consists of one byte repeated; use random bytes, for example from \
                 `openssl rand -base64 32`",
            ));
        }
        Ok(Self { secret: secret.into() })
    }

    /// A key written in base64, standard or URL-safe, with or without padding.
    ///
    /// # Errors
    ///
    /// When it is not base64, or the key is too short.
    pub fn from_base64(text: &str) -> Result<Self, ConfigError> {
        let text = text.trim().trim_end_matches('=');
        let engine = if text.contains(['-', '_']) {
            &general_purpose::URL_SAFE_NO_PAD
        } else {
            &general_purpose::STANDARD_NO_PAD
        };
        // The error of the decoder would quote bytes of the secret.
        let secret = engine.decode(text).map_err(|_| {
            ConfigError::new("a key is not base64; write it as `openssl rand -base64 32` prints it")
        })?;
        Self::from_bytes(secret)
    }

    /// The keys in an environment variable: base64, several separated by commas or white space.
    ///
    /// # Errors
    ///
    /// When the variable is not set, or what it holds is not keys.
    pub fn all_from_env(name: &str) -> Result<Vec<Self>, ConfigError> {
        Self::all_from_value(name, std::env::var(name).ok().as_deref())
    }

    /// The keys in `value`, which is that of the environment variable `name`.
    fn all_from_value(name: &str, value: Option<&str>) -> Result<Vec<Self>, ConfigError> {
        let Some(value) = value else {
            return Err(ConfigError::new(format!(
                "the environment variable {name} is not set; set it to a key as `openssl rand \
                 -base64 32` prints it"
            )));
        };
        let parts = value.split(|c: char| c == ',' || c.is_whitespace());
        let keys: Result<Vec<_>, _> =
            parts.filter(|part| !part.is_empty()).map(Self::from_base64).collect();
        match keys {
            Ok(keys) if keys.is_empty() => Err(ConfigError::new(format!(
                "the environment variable {name} is empty; set it to a key as `openssl rand \
                 -base64 32` prints it"
            ))),
            keys => keys.map_err(|error| {
                ConfigError::new(format!("the environment variable {name}: {error}"))
            }),
        }
    }

    /// 128 bits for keyed hashes, derived from the secret.
    pub(crate) fn hash_secret(&self) -> [u64; 2] {
        let secret = hmac::Key::new(hmac::HMAC_SHA256, &self.secret);
        let derived = hmac::sign(&secret, b"tower-sticky/1/hash");
        let half = |at: usize| {
            let mut bytes = [0; 8];
            bytes.copy_from_slice(&derived.as_ref()[at..at + 8]);
            u64::from_le_bytes(bytes)
        };
        [half(0), half(8)]
    }

    /// The key in base64.
    pub fn to_base64(&self) -> String {
        general_purpose::STANDARD.encode(&self.secret)
    }
}

impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Key(..)")
    }
}

/// The keys that seal and open tokens: the first seals, all open. The handle is cheap to
/// clone. Keys can be rotated at run time, under traffic, without moving a session.
///
/// To rotate without losing sessions: [`set`](Self::set) the new key *behind* the old one on every
/// gateway, then in front of it, and remove the old one after the longest lifetime of a session. A
/// token of an older key is accepted, and sealed again under the first one.
///
/// Tokens are sealed with AES-256-GCM (NIST SP 800-38D) under a key derived from the secret, with a
/// nonce of 96 random bits. Up to 2^32 tokens under one key keep the chance of a repeated nonce
/// below 2^-32: rotate when a key has sealed that many.
///
/// # Example
///
/// ```
/// use tower_sticky::{Key, KeyRing};
///
/// let old = Key::generate()?;
/// let ring = KeyRing::new([old.clone()])?;
/// let new = Key::generate()?;
/// ring.set([new, old])?;
/// # Ok::<(), tower_sticky::ConfigError>(())
/// ```
#[derive(Clone)]
pub struct KeyRing {
    inner: Arc<Inner>,
}

struct Inner {
    keys: ArcSwap<Vec<SealingKey>>,
    random: SystemRandom,
    /// The Unix minute of the last warning about an unknown key.
    warned: AtomicU64,
}

pub(super) struct SealingKey {
    /// Identifies the key in the token: 6 bits, not secret and not necessarily unique.
    pub(super) id: u8,
    pub(super) aead: LessSafeKey,
    /// For the routes of backends.
    pub(super) route: hmac::Key,
}

impl KeyRing {
    /// A ring of these keys: the first seals, all open.
    ///
    /// # Errors
    ///
    /// When there is no key.
    pub fn new(keys: impl IntoIterator<Item = Key>) -> Result<Self, ConfigError> {
        Ok(Self {
            inner: Arc::new(Inner {
                keys: ArcSwap::from_pointee(derive_all(keys)?),
                random: SystemRandom::new(),
                warned: AtomicU64::new(0),
            }),
        })
    }

    /// A ring of one random key: its tokens are valid only in this process, and not on other gateways.
    ///
    /// # Errors
    ///
    /// When the system's random number generator fails.
    pub fn generate() -> Result<Self, ConfigError> {
        Self::new([Key::generate()?])
    }

    /// A ring of the keys in an environment variable: base64, several separated by commas or white
    /// space, the first seals.
    ///
    /// # Errors
    ///
    /// When the variable is not set, or what it holds is not keys.
    pub fn from_env(name: &str) -> Result<Self, ConfigError> {
        Self::new(Key::all_from_env(name)?)
    }

    /// Replaces the keys, for this ring and all its clones.
    ///
    /// # Errors
    ///
    /// When there is no key; then nothing changes.
    pub fn set(&self, keys: impl IntoIterator<Item = Key>) -> Result<(), ConfigError> {
        self.inner.keys.store(Arc::new(derive_all(keys)?));
        Ok(())
    }

    /// Opens a token that names the key `id`: `open` tries one key, and returns `None` when the token was not
    /// sealed by it. Returns also the position of that key.
    #[inline]
    pub(super) fn open<T>(
        &self,
        id: u8,
        now: u64,
        mut open: impl FnMut(&SealingKey) -> Option<T>,
    ) -> Option<(T, usize)> {
        let keys = self.load();
        let mut known = false;
        for (position, key) in keys.iter().enumerate() {
            if key.id != id {
                continue;
            }
            known = true;
            if let Some(opened) = open(key) {
                return Some((opened, position));
            }
        }
        if !known {
            self.warn_unknown_key(id, now);
        }
        None
    }

    pub(super) fn load(&self) -> arc_swap::Guard<Arc<Vec<SealingKey>>> {
        self.inner.keys.load()
    }

    pub(super) fn load_full(&self) -> Arc<Vec<SealingKey>> {
        self.inner.keys.load_full()
    }

    pub(super) fn fill_random(&self, bytes: &mut [u8]) -> bool {
        self.inner.random.fill(bytes).is_ok()
    }

    /// Warns of a token under an unknown key, at most once a minute.
    fn warn_unknown_key(&self, id: u8, unix_seconds: u64) {
        let minute = unix_seconds / 60;
        if self.inner.warned.swap(minute, Relaxed) != minute {
            tracing::warn!(
                key = id,
                "a token is sealed under a key that is not in the ring; were the keys rotated on \
                 one gateway only?"
            );
        }
    }
}

impl fmt::Debug for KeyRing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("KeyRing").field("keys", &self.load().len()).finish_non_exhaustive()
    }
}

fn derive_all(keys: impl IntoIterator<Item = Key>) -> Result<Vec<SealingKey>, ConfigError> {
    let keys: Vec<_> = keys.into_iter().map(|key| derive(&key)).collect::<Result<_, _>>()?;
    if keys.is_empty() {
        return Err(ConfigError::new(
            "a key ring has no key; give it at least one, the first seals and all open",
        ));
    }
    Ok(keys)
}

/// Derives a separate key for each purpose from one secret (HMAC-SHA-256 as a key derivation function,
/// NIST SP 800-108).
fn derive(key: &Key) -> Result<SealingKey, ConfigError> {
    let secret = hmac::Key::new(hmac::HMAC_SHA256, &key.secret);
    let aead = hmac::sign(&secret, b"tower-sticky/1/seal");
    let id = hmac::sign(&secret, b"tower-sticky/1/key-id");
    let aead = UnboundKey::new(&AES_256_GCM, aead.as_ref())
        .map_err(|_| ConfigError::new("a key could not be derived"))?;
    let route = hmac::sign(&secret, b"tower-sticky/1/route");
    let route = hmac::Key::new(hmac::HMAC_SHA256, route.as_ref());
    Ok(SealingKey { id: id.as_ref()[0] & 0x3f, aead: LessSafeKey::new(aead), route })
}

#[cfg(test)]
mod tests;
