//! The outcome of a request, and the counters of all outcomes.

use std::{
    fmt,
    sync::atomic::{AtomicU64, Ordering::Relaxed},
    time::Duration,
};

use crate::{
    id::{BackendId, SessionHash},
    outcome::TokenCause,
    util::string_enum::words,
};

words! {
    /// How a request was served.
    Verdict {
        /// Served by the backend that its pin names.
        Pinned = "pinned",
        /// It had no valid pin, or bypassed it. A backend was chosen for it, and it is pinned to that one from
        /// now on unless it bypassed the pin.
        Assigned = "assigned",
        /// Its backend could not serve it; it is pinned to another one from now on.
        Moved = "moved",
        /// Its backend could not serve it; another one served this request. The pin stays.
        Borrowed = "borrowed",
        /// No backend answered; the layer responded with an error.
        Rejected = "rejected",
        /// A peer forwarded it to this node, which served it without routing it again.
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
        /// The token is empty, too long, not well formed, or has timestamps further in the future than the
        /// clock skew allows.
        Malformed = "malformed",
        /// The token was not sealed with a key of the ring for this cookie or header.
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
        /// The session was moved to balance the load.
        Rebalanced = "rebalanced",
        /// The application or the caller asked for it.
        Requested = "requested",
        /// The token belongs to another pool with the same keys.
        OtherPool = "other-pool",
        /// The body of the request broke off, stalled, was malformed, or had not the announced length.
        ClientError = "client-error",
        /// This machine had no file descriptor, local port or memory left for a connection.
        Shortage = "shortage",
    }
}

impl Reason {
    /// Whether the reason is an error of the token itself, which is counted in
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

/// The outcome of one request: the verdict, the backend that answered, the reason when a pin was not
/// followed, and what else a line of an access log says.
///
/// With [`outcome_extensions`](crate::StickyLayer::outcome_extensions) it is in the extensions of the
/// response, and of the request for the service that answers it: see [`Outcome::of`]. The fields `sticky.backend`, `sticky.outcome`, `sticky.reason` and `sticky.epoch` of the current
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
    pub(crate) session: Option<SessionHash>,
    pub(crate) epoch: Option<u64>,
    pub(crate) token: Option<TokenCause>,
    pub(crate) attempts: u32,
    pub(crate) waited: Option<Duration>,
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

    /// A hash of the session, with which one can follow it in a log without being able to use it; `None`
    /// without a session, and with tokens that do not tell sessions apart.
    pub fn session(&self) -> Option<SessionHash> {
        self.session
    }

    /// The epoch of the session, which grows when the session moves; `None` without a session, and with tokens
    /// that have no epoch.
    pub fn epoch(&self) -> Option<u64> {
        self.epoch
    }

    /// Why a token was written to the response; `None` if none was.
    pub fn token(&self) -> Option<TokenCause> {
        self.token
    }

    /// How often the request was given to a backend, the one that has answered included.
    pub fn attempts(&self) -> u32 {
        self.attempts
    }

    /// How long the request has waited for a backend to become ready; `None` if it did not have to.
    pub fn waited(&self) -> Option<Duration> {
        self.waited
    }
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.verdict.write_with(self.backend.as_ref(), self.reason, f)
    }
}

impl Verdict {
    /// Writes a decision, such as `moved b (connect-failed)`.
    pub(crate) fn write_with(
        self,
        backend: Option<&BackendId>,
        reason: Option<Reason>,
        f: &mut fmt::Formatter<'_>,
    ) -> fmt::Result {
        f.write_str(self.as_str())?;
        if let Some(backend) = backend {
            write!(f, " {backend}")?;
        }
        match reason {
            Some(reason) => write!(f, " ({reason})"),
            None => Ok(()),
        }
    }
}

/// Totals since the pool was created, from [`Backends::snapshot`](crate::Backends::snapshot). What each outcome and
/// reason means, and what to do, is in [`outcomes`](crate::guide::outcomes).
///
/// # Example
///
/// ```
/// use tower_sticky::{Backends, Reason, Verdict};
///
/// let backends = Backends::from_iter([("a", ())]);
/// let stats = backends.snapshot().stats;
/// let of_all = stats.outcome(Verdict::Pinned) as f64 / stats.requests().max(1) as f64;
/// println!("{of_all:.2} pinned, {} moved because a connection failed", stats.reason(Reason::ConnectFailed));
/// # assert_eq!(of_all, 0.0);
/// ```
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

    /// Rejected tokens with this reason.
    pub fn token_errors(&self, reason: Reason) -> u64 {
        self.token_errors[reason as usize]
    }

    /// Sessions that were moved to another backend.
    pub fn moves(&self) -> u64 {
        self.moves
    }

    /// Tokens that were set in responses.
    pub fn tokens_issued(&self) -> u64 {
        self.tokens_issued
    }

    /// Requests with a valid pin to a backend that could serve them and that were served by another
    /// one without a policy that allows it. A value other than 0 is a bug of this crate.
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
