//! Why this backend? The typed answer for every request, and its totals.

use std::{
    fmt,
    sync::atomic::{AtomicU64, Ordering::Relaxed},
};

use crate::{id::BackendId, util::string_enum::words};

words! {
    /// What became of a request.
    Verdict {
        /// Served by the backend that its pin names.
        Pinned = "pinned",
        /// It had no usable pin, or passed it by; a backend was chosen for it, which is its pin from now
        /// on unless it passed by.
        Assigned = "assigned",
        /// Its backend could not serve it; it is pinned to another one from now on.
        Moved = "moved",
        /// Its backend could not serve it; another one did, this once. The pin stays.
        Borrowed = "borrowed",
        /// No backend answered; the layer had to.
        Rejected = "rejected",
        /// A peer forwarded it to this node, which served it without a decision of its own.
        Local = "local",
        /// No backend could take it; the inner service, the last resort, answered.
        LastResort = "last-resort",
    }
}

words! {
    /// Why a pin was not followed, or could not be.
    Reason {
        /// The session had been idle for longer than its idle timeout.
        ExpiredIdle = "expired-idle",
        /// The session was older than its absolute timeout.
        ExpiredAbsolute = "expired-absolute",
        /// The token is not one: empty, oversize, not well formed, or dated further ahead than clocks may
        /// differ.
        Malformed = "malformed",
        /// The token is not sealed under any of our keys for this cookie.
        Forged = "forged",
        /// The token names a backend that is not in the pool.
        Unknown = "unknown",
        /// The pinned backend is down.
        Down = "down",
        /// The pinned backend's drain has ended.
        Draining = "draining",
        /// The pinned backend is disabled.
        Disabled = "disabled",
        /// The pinned backend stayed busy for longer than the request may wait.
        Busy = "busy",
        /// The connection to the backend failed, so that the request was not sent.
        ConnectFailed = "connect-failed",
        /// The backend's service failed to become ready.
        NotReady = "not-ready",
        /// The session was moved to even the load out.
        Rebalanced = "rebalanced",
        /// The application or the caller asked for it.
        Requested = "requested",
        /// The token is one of another pool under the same keys.
        OtherPool = "other-pool",
        /// The body of the request broke off, stalled, was malformed, or had not the announced length.
        ClientError = "client-error",
        /// This machine had no file descriptor, local port or memory left for a connection.
        Shortage = "shortage",
    }
}

impl Reason {
    /// Whether the reason is a fault of the token itself, so that it is counted in
    /// [`Stats::token_errors`].
    pub const fn is_token_error(self) -> bool {
        matches!(
            self,
            Self::ExpiredIdle
                | Self::ExpiredAbsolute
                | Self::Malformed
                | Self::Forged
                | Self::OtherPool
                | Self::Unknown
        )
    }
}

/// Why this backend: the verdict on one request, the backend that answered, and the reason when a
/// pin was there and was not followed.
///
/// With [`outcome_extensions`](crate::StickyLayer::outcome_extensions) it is in the extensions of the
/// response, and of the request for the service that answers it: see [`Outcome::of`]. The fields `sticky.backend`, `sticky.outcome` and `sticky.reason` of the current
/// tracing span are recorded when the span declares them, and every dispatch is an event at debug
/// level.
///
/// # Example
///
/// ```
/// use http::Response;
/// use tower_sticky::Outcome;
///
/// fn explain<B>(response: &Response<B>) -> String {
///     match Outcome::of(response.extensions()) {
///         Some(outcome) => outcome.to_string(), // "moved b (down)"
///         None => "no decision of ours".into(),
///     }
/// }
/// # assert_eq!(explain(&Response::new(())), "no decision of ours");
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Outcome {
    pub(crate) verdict: Verdict,
    pub(crate) backend: Option<BackendId>,
    pub(crate) reason: Option<Reason>,
}

impl Outcome {
    /// The outcome in a response's or a request's extensions.
    pub fn of(extensions: &http::Extensions) -> Option<&Self> {
        extensions.get()
    }

    /// What became of the request.
    pub fn verdict(&self) -> Verdict {
        self.verdict
    }

    /// The backend that answered; `None` when none did.
    pub fn backend(&self) -> Option<&BackendId> {
        self.backend.as_ref()
    }

    /// Why a pin was not followed; `None` when it was, or when there was none.
    pub fn reason(&self) -> Option<Reason> {
        self.reason
    }
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.verdict.as_str())?;
        if let Some(backend) = &self.backend {
            write!(f, " {backend}")?;
        }
        if let Some(reason) = self.reason {
            write!(f, " ({reason})")?;
        }
        Ok(())
    }
}

/// Totals since the pool was made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stats {
    outcomes: [u64; Verdict::ALL.len()],
    reasons: [u64; Reason::ALL.len()],
    token_errors: [u64; Reason::ALL.len()],
    moves: u64,
    tokens_issued: u64,
    violations: u64,
}

impl Stats {
    /// All requests whose outcome is known: the sum of the outcomes.
    pub fn requests(&self) -> u64 {
        self.outcomes.iter().sum()
    }

    /// Requests with this verdict.
    pub fn outcome(&self, verdict: Verdict) -> u64 {
        self.outcomes[verdict as usize]
    }

    /// Requests with this reason.
    pub fn reason(&self, reason: Reason) -> u64 {
        self.reasons[reason as usize]
    }

    /// Tokens that were of no use, by what was wrong with them.
    pub fn token_errors(&self, reason: Reason) -> u64 {
        self.token_errors[reason as usize]
    }

    /// Sessions that were given another backend.
    pub fn moves(&self) -> u64 {
        self.moves
    }

    /// Tokens that were put on responses.
    pub fn tokens_issued(&self) -> u64 {
        self.tokens_issued
    }

    /// Requests with a valid pin to a backend that could serve them and that were served elsewhere
    /// without a stated policy asking for it. Anything but 0 is a bug of this crate.
    pub fn violations(&self) -> u64 {
        self.violations
    }
}

#[derive(Debug, Default)]
#[repr(align(128))]
pub(crate) struct Counters {
    outcomes: [AtomicU64; Verdict::ALL.len()],
    reasons: [AtomicU64; Reason::ALL.len()],
    token_errors: [AtomicU64; Reason::ALL.len()],
    moves: AtomicU64,
    tokens_issued: AtomicU64,
    violations: AtomicU64,
}

impl Counters {
    #[inline]
    pub(crate) fn count(&self, verdict: Verdict, reason: Option<Reason>) {
        self.outcomes[verdict as usize].fetch_add(1, Relaxed);
        if let Some(reason) = reason {
            self.reasons[reason as usize].fetch_add(1, Relaxed);
        }
    }

    pub(crate) fn token_error(&self, reason: Reason) {
        self.token_errors[reason as usize].fetch_add(1, Relaxed);
    }

    pub(crate) fn moved(&self) {
        self.moves.fetch_add(1, Relaxed);
    }

    pub(crate) fn token_issued(&self) {
        self.tokens_issued.fetch_add(1, Relaxed);
    }

    pub(crate) fn violation(&self) {
        self.violations.fetch_add(1, Relaxed);
    }

    pub(crate) fn stats(&self) -> Stats {
        let read = |counter: &AtomicU64| counter.load(Relaxed);
        Stats {
            outcomes: std::array::from_fn(|i| read(&self.outcomes[i])),
            reasons: std::array::from_fn(|i| read(&self.reasons[i])),
            token_errors: std::array::from_fn(|i| read(&self.token_errors[i])),
            moves: read(&self.moves),
            tokens_issued: read(&self.tokens_issued),
            violations: read(&self.violations),
        }
    }
}
