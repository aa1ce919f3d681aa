//! [`PinStore`], the interface of a store of pins, and its types.

use std::{fmt, future::Future, hash::Hash, pin::Pin, sync::Arc, time::Duration};

use crate::token;

/// A store of pins.
///
/// No method may block: [`get`](Self::get) can return a future, while [`put`](Self::put) and
/// [`remove`](Self::remove) return at once, so a store over a network writes in the background. A store
/// that fails returns [`Answer::Nothing`]: the session is then placed by the rank of its id, which most
/// often is the backend that it was on, and no request is lost. The layer waits for an answer no longer
/// than its [`ready_timeout`](crate::StickyLayer::ready_timeout).
///
/// # Example
///
/// A store that answers with a future:
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
    /// Looks up the session of a request, and restarts its idle time.
    fn get(&self, key: SessionKey, idle: Duration) -> Lookup;

    /// Looks up a session for an explanation, as [`get`](Self::get) does, but without a trace: its idle time goes
    /// on, and it does not count as open. The default knows nothing.
    fn peek(&self, _key: SessionKey, _idle: Duration) -> Lookup {
        Lookup::Now(Answer::Nothing)
    }

    /// Stores the pin of a session whose id the application has issued, and replaces any other pin. The
    /// session expires when it has sent no request for `idle`.
    ///
    /// The session counts as open until the returned value is dropped. `None` if the store does not track
    /// open sessions.
    fn put(&self, key: SessionKey, pin: StoredPin, idle: Duration) -> Option<OpenSession>;

    /// Stores the pin of a session that the layer has assigned to a backend or has moved. `known` is the
    /// pin that [`get`](Self::get) returned, if it returned one.
    ///
    /// A store that several gateways share keeps a pin that another gateway has written since, so that all
    /// of them agree: the first writer wins. The default is [`put`](Self::put).
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

    /// Removes the pin of a session that the application has ended.
    fn remove(&self, key: SessionKey);
}

/// The key of a session in a store: a keyed hash of the application's session id (SipHash-1-3, 128 bits).
/// The id cannot be computed from it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct SessionKey {
    // Not a `u128`, whose alignment would cost 16 bytes per session.
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

    /// Reads the bytes of [`to_bytes`](Self::to_bytes).
    pub(crate) fn from_bytes(bytes: [u8; 16]) -> Self {
        let both = u128::from_be_bytes(bytes);
        Self { high: (both >> 64) as u64, low: both as u64 }
    }

    /// The session's identity in 64 bits, never 0.
    pub(crate) fn session(&self) -> u64 {
        self.low.max(1)
    }
}

/// A pin in a store: the backend of a session, the epoch of the session, and when it began. A store
/// outside of the process keeps it as [bytes](Self::to_bytes).
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

    /// The pin as bytes: the backend's tag (8), the epoch (8) and the date (4), each in big-endian order.
    pub fn to_bytes(&self) -> [u8; Self::LEN] {
        let mut bytes = [0; Self::LEN];
        bytes[..8].copy_from_slice(&self.backend.to_be_bytes());
        bytes[8..16].copy_from_slice(&self.epoch.to_be_bytes());
        bytes[16..].copy_from_slice(&self.issued.to_be_bytes());
        bytes
    }

    /// Reads the bytes of [`to_bytes`](Self::to_bytes). `None` if they have another length.
    pub fn from_bytes(bytes: &[u8]) -> Option<Self> {
        let (backend, rest) = bytes.split_first_chunk()?;
        let (epoch, rest) = rest.split_first_chunk()?;
        Some(Self {
            backend: u64::from_be_bytes(*backend),
            epoch: u64::from_be_bytes(*epoch),
            issued: u32::from_be_bytes(rest.try_into().ok()?),
        })
    }

    /// A number that grows each time the session moves. The newer of two pins of a session is the one with
    /// the greater epoch.
    pub fn epoch(&self) -> u64 {
        self.epoch
    }

    /// The pin in the form that tokens use.
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

/// The answer of a store to a look-up.
pub enum Lookup {
    /// The answer is known now.
    Now(Answer),
    /// The request waits for the answer.
    Later(Pin<Box<dyn Future<Output = Answer> + Send>>),
}

/// What a store knows about a session.
#[derive(Debug)]
pub enum Answer {
    /// The session's pin. The session counts as open until the second value is dropped.
    Pin(StoredPin, Option<OpenSession>),
    /// The session has expired: it was idle for too long.
    Idle,
    /// The session is unknown.
    Nothing,
    /// The look-up has failed, and the session must not be assigned again: the request fails with
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

/// Marks a session as open, that is, with a request or stream in flight. The session does not expire
/// until this is dropped.
pub struct OpenSession(Arc<dyn WhenClosed>);

/// The part of a store that is notified when an [`OpenSession`] is dropped.
pub trait WhenClosed: Send + Sync + 'static {
    /// Called once for each [`OpenSession`].
    fn closed(&self);
}

impl OpenSession {
    /// Calls [`closed`](WhenClosed::closed) on `entry` when it is dropped.
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
    fn pins_and_keys_convert_to_bytes() {
        let pin = StoredPin { backend: 1, epoch: 2 << 40, issued: 3 };
        let bytes = pin.to_bytes();
        assert_eq!(StoredPin::from_bytes(&bytes), Some(pin));
        assert_eq!(StoredPin::from_bytes(&bytes[1..]), None);
        assert_eq!(StoredPin::from_bytes(&[&bytes[..], &[0]].concat()), None);
        let key = SessionKey { high: 1, low: 2 };
        assert_eq!(key.to_bytes(), 1_u128.wrapping_shl(64).wrapping_add(2).to_be_bytes());
    }
}
