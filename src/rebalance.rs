//! Evening the load out after scale-out: sessions that rest move, a few at a time.

use std::{
    fmt,
    future::Future,
    pin::Pin,
    sync::{Arc, Mutex, PoisonError},
    task::{Context, Poll},
    time::Duration,
};

use tokio::time::{Instant, Sleep, sleep_until};

use crate::{BackendId, BoxError, ConfigError, dispatch::later};

/// Moves sessions that rest to backends that have less to do.
///
/// Without it nobody moves because a backend joins, and a new backend fills with new sessions only. With it
/// a session moves at its next request (outcome `moved`, reason `rebalanced`) when all of this is so:
///
/// - its backend has more sessions than `tolerance` times the average, per weight;
/// - another one is ready and has less than the average, also with the session;
/// - the session has not been seen for `idle_for`: nobody moves in the middle of their work;
/// - fewer than `max_per_second` have moved in this second.
///
/// A backend that takes a session stays below the average, so nobody moves back and forth.
///
/// When a session was last seen stands in sealed tokens ([`Cookie`](crate::affinity::Cookie),
/// [`Header`](crate::affinity::Header), [`Envelope`](crate::affinity::Envelope)): only sessions that
/// have one move, and their tokens are written anew after a third of `idle_for`.
///
/// # Example
///
/// ```
/// use std::time::Duration;
/// use tower_sticky::{Backends, KeyRing, Rebalance, StickyLayer, affinity::Cookie};
///
/// # let backends: Backends<()> = Backends::new();
/// # async fn copy_the_cart(_: String, _: String, _: String) -> std::io::Result<()> { Ok(()) }
/// let rebalance = Rebalance::new()
///     .idle_for(Duration::from_secs(600))
///     .before_move(|session| {
///         copy_the_cart(session.id().to_string(), session.from().to_string(), session.to().to_string())
///     });
/// let layer = StickyLayer::new(backends, Cookie::sealed("sid", KeyRing::generate()?))
///     .rebalance(rebalance)?;
/// # Ok::<(), tower_sticky::ConfigError>(())
/// ```
#[derive(Clone)]
pub struct Rebalance {
    tolerance: f64,
    idle_for: Duration,
    max_per_second: u32,
    hook: Option<Arc<Hook>>,
    patience: Duration,
}

type Hook = dyn Fn(Move) -> HookFuture + Send + Sync;
type HookFuture = Pin<Box<dyn Future<Output = Result<(), BoxError>> + Send>>;

impl Rebalance {
    /// Tolerance 1.25, sessions idle for 5 minutes, at most 10 a second.
    pub const fn new() -> Self {
        Self {
            tolerance: 1.25,
            idle_for: Duration::from_secs(300),
            max_per_second: 10,
            hook: None,
            patience: Duration::from_secs(1),
        }
    }

    /// How many times the average number of sessions per weight a backend may have, at least 1.1;
    /// default 1.25.
    #[must_use]
    pub const fn tolerance(mut self, times: f64) -> Self {
        self.tolerance = times;
        self
    }

    /// For how long a session must not have been seen, at least a second; default 5 minutes.
    #[must_use]
    pub const fn idle_for(mut self, idle: Duration) -> Self {
        self.idle_for = idle;
        self
    }

    /// How many sessions may move within a second, at least 1; default 10.
    #[must_use]
    pub const fn max_per_second(mut self, sessions: u32) -> Self {
        self.max_per_second = sessions;
        self
    }

    /// What to do before a session moves, for example carry its state over. The request waits for it.
    /// When it fails, or takes longer than [`move_timeout`](Self::move_timeout), the session stays.
    #[must_use]
    pub fn before_move<F, Fut, E>(mut self, hook: F) -> Self
    where
        F: Fn(Move) -> Fut + Send + Sync + 'static,
        Fut: Future<Output = Result<(), E>> + Send + 'static,
        E: Into<BoxError>,
    {
        self.hook = Some(Arc::new(move |session| {
            let done = hook(session);
            Box::pin(async move { done.await.map_err(Into::into) })
        }));
        self
    }

    /// How long the hook may take; default 1 s.
    #[must_use]
    pub const fn move_timeout(mut self, timeout: Duration) -> Self {
        self.patience = timeout;
        self
    }

    pub(crate) fn check(self) -> Result<Rebalancer, ConfigError> {
        if !(1.1..=1e6).contains(&self.tolerance) {
            return Err(ConfigError::new(format!(
                "rebalance: the tolerance {} is not between 1.1 and 1000000; sessions are counted to \
                 within some percent, so use 1.1 or more, such as 1.25",
                self.tolerance
            )));
        }
        if self.idle_for < Duration::from_secs(1) {
            return Err(ConfigError::new(
                "rebalance: idle_for must be at least one second, the unit of the dates in tokens",
            ));
        }
        if self.max_per_second == 0 {
            return Err(ConfigError::new(
                "rebalance: at most 0 sessions a second would move nobody; leave rebalancing out \
                 instead",
            ));
        }
        Ok(Rebalancer { settings: self, next: Mutex::new(None) })
    }
}

impl Default for Rebalance {
    fn default() -> Self {
        Self::new()
    }
}

impl fmt::Debug for Rebalance {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Rebalance")
            .field("tolerance", &self.tolerance)
            .field("idle_for", &self.idle_for)
            .field("max_per_second", &self.max_per_second)
            .field("before_move", &self.hook.is_some())
            .finish_non_exhaustive()
    }
}

/// What identifies a session: opaque, and the same through every move.
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

    /// The id as a number, for tables of one's own.
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

/// A session that is about to move.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Move {
    pub(crate) session: SessionId,
    pub(crate) from: BackendId,
    pub(crate) to: BackendId,
}

impl Move {
    /// The session.
    pub fn id(&self) -> SessionId {
        self.session
    }

    /// The backend that has it.
    pub fn from(&self) -> &BackendId {
        &self.from
    }

    /// The backend that is to have it.
    pub fn to(&self) -> &BackendId {
        &self.to
    }
}

/// Rebalancing at work.
pub(crate) struct Rebalancer {
    settings: Rebalance,
    /// When the next session may move.
    next: Mutex<Option<Instant>>,
}

impl Rebalancer {
    pub(crate) fn idle_for(&self) -> Duration {
        self.settings.idle_for
    }

    pub(crate) fn tolerance(&self) -> f64 {
        self.settings.tolerance
    }

    /// Whether one more session may move now; it counts as moved.
    pub(crate) fn admits(&self) -> bool {
        let mut next = self.next.lock().unwrap_or_else(PoisonError::into_inner);
        let now = Instant::now();
        if next.is_some_and(|next| next > now) {
            return false;
        }
        *next = Some(now + Duration::from_secs(1) / self.settings.max_per_second);
        true
    }

    /// What has to be done before `session` moves, if anything.
    pub(crate) fn hand_over(&self, session: Move) -> Option<HandOver> {
        let hook = self.settings.hook.as_ref()?;
        let sleep = Box::pin(sleep_until(later(self.settings.patience)));
        Some(HandOver { work: Mutex::new(hook(session)), sleep })
    }
}

impl fmt::Debug for Rebalancer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.settings.fmt(f)
    }
}

/// The application carries a session's state over.
pub(crate) struct HandOver {
    /// Never locked: it makes the future of the response `Sync`, whatever the hook's is.
    work: Mutex<HookFuture>,
    sleep: Pin<Box<Sleep>>,
}

impl HandOver {
    /// Ready with whether the session may move.
    pub(crate) fn poll(&mut self, cx: &mut Context<'_>) -> Poll<bool> {
        let work = self.work.get_mut().unwrap_or_else(PoisonError::into_inner);
        match work.as_mut().poll(cx) {
            Poll::Ready(Ok(())) => Poll::Ready(true),
            Poll::Ready(Err(error)) => {
                tracing::warn!(%error, "a session was not moved: its state could not be carried over");
                Poll::Ready(false)
            }
            Poll::Pending => self.sleep.as_mut().poll(cx).map(|()| {
                tracing::warn!("a session was not moved: its state was not carried over in time");
                false
            }),
        }
    }
}
