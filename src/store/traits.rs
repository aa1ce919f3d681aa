//! What a store of pins does.

use std::{fmt, future::Future, hash::Hash, pin::Pin, sync::Arc, time::Duration};

use crate::token;

/// A table of pins.
///
/// Nothing in it blocks: [`get`](Self::get) may answer later, [`put`](Self::put) and
/// [`remove`](Self::remove) return at once, and an engine over a network writes behind them. A store
/// that fails says [`Answer::Nothing`]: the session is then placed by the rank of its id, which most
/// often is where it was, and no request is lost. The layer waits for an answer no longer than its
/// [`ready_timeout`](crate::StickyLayer::ready_timeout).
///
/// # Example
///
/// A store that answers later:
///
/// ```
/// use std::time::Duration;
/// use tower_sticky::store::{Answer, Lookup, MemoryStore, OpenSession, PinStore, SessionKey, StoredPin};
///
/// #[derive(Debug)]
/// struct Remote(MemoryStore); // stands for an engine over the network
///
/// impl PinStore for Remote {
///     fn get(&self, key: SessionKey, idle: Duration) -> Lookup {
///         let table = self.0.clone();
///         Lookup::Later(Box::pin(async move {
///             tokio::task::yield_now().await;
///             match table.get(key, idle) {
///                 Lookup::Now(answer) => answer,
///                 Lookup::Later(_) => Answer::Nothing,
///             }
///         }))
///     }
///
///     fn put(&self, key: SessionKey, pin: StoredPin, idle: Duration) -> Option<OpenSession> {
///         self.0.put(key, pin, idle)
///     }
///
///     fn remove(&self, key: SessionKey) {
///         self.0.remove(key);
///     }
/// }
/// ```
pub trait PinStore: fmt::Debug + Send + Sync + 'static {
    /// Looks a session up because a request of it has come: its idle time begins anew.
    fn get(&self, key: SessionKey, idle: Duration) -> Lookup;

    /// Remembers a pin, in place of the one that may be there: the application has issued the id. Its
    /// session ends when it has sent no request for `idle`.
    ///
    /// The session counts as open until what is returned is dropped; `None` if the store cannot tell.
    fn put(&self, key: SessionKey, pin: StoredPin, idle: Duration) -> Option<OpenSession>;

    /// Remembers where the layer has placed a session whose id came with the request, or to where it
    /// has moved the session; `known` is the pin that the store had told, if it had.
    ///
    /// A store that several gateways share keeps the backend that another gateway wrote meanwhile, so
    /// that all of them agree: the first writer wins. By default as [`put`](Self::put).
    fn claim(
        &self,
        key: SessionKey,
        pin: StoredPin,
        known: Option<StoredPin>,
        idle: Duration,
    ) -> Option<OpenSession> {
        let _ = known;
        self.put(key, pin, idle)
    }

    /// Forgets a pin: the application has ended the session.
    fn remove(&self, key: SessionKey);
}

/// What stands for a session in a store: a keyed hash of the application's id, 128 bits, from which
/// nobody finds the id.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct SessionKey {
    // Not one `u128`, whose alignment would cost 16 bytes per session.
    high: u64,
    low: u64,
}

impl SessionKey {
    pub(crate) fn new(hash: siphasher::sip128::Hash128) -> Self {
        Self { high: hash.h1, low: hash.h2 }
    }

    /// The key as bytes, the same on every gateway that has the secret.
    pub fn to_bytes(&self) -> [u8; 16] {
        let mut bytes = [0; 16];
        bytes[..8].copy_from_slice(&self.high.to_be_bytes());
        bytes[8..].copy_from_slice(&self.low.to_be_bytes());
        bytes
    }

    /// 64 bits that identify the session, never 0.
    pub(crate) fn session(&self) -> u64 {
        self.low.max(1)
    }
}

/// A pin as a store keeps it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct StoredPin {
    /// The tag of the backend's id.
    pub(crate) backend: u64,
    pub(crate) epoch: u64,
    /// When the session began, in Unix seconds.
    pub(crate) issued: u32,
}

impl StoredPin {
    /// The length of [`to_bytes`](Self::to_bytes).
    pub const LEN: usize = 20;

    /// The pin as bytes, for engines that keep bytes: the backend's tag (8), the epoch (8) and the
    /// date (4), each with its most significant byte first.
    pub fn to_bytes(&self) -> [u8; Self::LEN] {
        let mut bytes = [0; Self::LEN];
        bytes[..8].copy_from_slice(&self.backend.to_be_bytes());
        bytes[8..16].copy_from_slice(&self.epoch.to_be_bytes());
        bytes[16..].copy_from_slice(&self.issued.to_be_bytes());
        bytes
    }

    /// Reads what [`to_bytes`](Self::to_bytes) wrote; `None` when it is something else.
    pub fn from_bytes(bytes: &[u8]) -> Option<Self> {
        let (backend, rest) = bytes.split_first_chunk()?;
        let (epoch, rest) = rest.split_first_chunk()?;
        Some(Self {
            backend: u64::from_be_bytes(*backend),
            epoch: u64::from_be_bytes(*epoch),
            issued: u32::from_be_bytes(rest.try_into().ok()?),
        })
    }

    /// A number that grows each time the session moves: of two pins of one session the one with the
    /// greater number is the newer.
    pub fn epoch(&self) -> u64 {
        self.epoch
    }

    /// As a token would say it.
    pub(crate) fn pin(&self, key: &SessionKey) -> token::Pin {
        token::Pin {
            backend: self.backend,
            session: key.session(),
            epoch: self.epoch,
            issued: self.issued,
            seen: self.issued,
        }
    }
}

/// How a store answers.
pub enum Lookup {
    /// At once.
    Now(Answer),
    /// Later: the request waits.
    Later(Pin<Box<dyn Future<Output = Answer> + Send>>),
}

/// What a store knows of a session.
#[derive(Debug)]
pub enum Answer {
    /// Its pin. The session counts as open until the second part is dropped.
    Pin(StoredPin, Option<OpenSession>),
    /// It had been idle for too long.
    Idle,
    /// Nothing.
    Nothing,
    /// It could not be looked up, and is not to be placed anew: the request fails with
    /// [`StickyError::StoreUnavailable`](crate::StickyError::StoreUnavailable), unless another member
    /// of a [chain](crate::affinity::Chain) knows the session.
    Unavailable,
}

impl fmt::Debug for Lookup {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Now(answer) => f.debug_tuple("Now").field(answer).finish(),
            Self::Later(_) => f.write_str("Later(..)"),
        }
    }
}

/// A session with a request or a stream under way, until this is dropped: meanwhile it does not
/// expire.
pub struct OpenSession(Arc<dyn WhenClosed>);

/// What a store does when an [`OpenSession`] ends.
pub trait WhenClosed: Send + Sync + 'static {
    /// Called once for each.
    fn closed(&self);
}

impl OpenSession {
    /// Tells `entry` when it is dropped.
    pub fn new(entry: Arc<impl WhenClosed>) -> Self {
        Self(entry)
    }
}

impl Drop for OpenSession {
    fn drop(&mut self) {
        self.0.closed();
    }
}

impl fmt::Debug for OpenSession {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("OpenSession").finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pins_and_keys_are_bytes() {
        let pin = StoredPin { backend: 1, epoch: 2 << 40, issued: 3 };
        let bytes = pin.to_bytes();
        assert_eq!(StoredPin::from_bytes(&bytes), Some(pin));
        assert_eq!(StoredPin::from_bytes(&bytes[1..]), None);
        assert_eq!(StoredPin::from_bytes(&[&bytes[..], &[0]].concat()), None);
        let key = SessionKey { high: 1, low: 2 };
        assert_eq!(key.to_bytes(), 1_u128.wrapping_shl(64).wrapping_add(2).to_be_bytes());
    }
}
