//! Reads, validates and writes the tokens of one carrier (a cookie or a header).

use std::time::Duration;

use super::{
    commit::{Change, Commit},
    found::{FindingKind, Found},
    reading::{Reading, RejectedToken, ValidPin},
    request::ReadContext,
    token_options::TokenOptions,
};
use crate::{
    id::{BackendId, MAX_ID_LEN},
    outcome::Reason,
    token::{self, Context, KeyRing, Pin, Unusable},
    util::clock::unix_millis,
};

impl From<Unusable> for Reason {
    fn from(unusable: Unusable) -> Self {
        match unusable {
            Unusable::Malformed => Self::Malformed,
            Unusable::Forged => Self::Forged,
            Unusable::OtherPool => Self::OtherPool,
        }
    }
}

/// The pin of a new session on the backend of `commit`.
pub(super) fn new_pin(keys: &KeyRing, commit: &Commit<'_>) -> Pin {
    let millis = unix_millis(commit.clock);
    let session = commit.planned.session.unwrap_or_else(|| token::new_session(keys));
    let (epoch, now) = (commit.planned.epoch, (millis / 1000) as u32);
    commit.new_session.set(session);
    Pin { backend: commit.backend.tag, session, epoch, issued: now, seen: now }
}

/// The same pin, last seen now. The time of issue changes only when it lies in the future, because
/// another gateway's clock is ahead.
pub(super) fn refreshed_pin(pin: Pin, commit: &Commit<'_>) -> Pin {
    let now = (unix_millis(commit.clock) / 1000) as u32;
    let epoch = commit.planned.epoch.max(pin.epoch);
    Pin { epoch, issued: pin.issued.min(now), seen: now, ..pin }
}

/// The pin of a session that moves to the backend of `commit`.
pub(super) fn moved_pin(pin: Pin, commit: &Commit<'_>) -> Pin {
    let epoch = commit.planned.epoch.max(pin.epoch.saturating_add(1));
    Pin { backend: commit.backend.tag, epoch, ..refreshed_pin(pin, commit) }
}

/// Reads and writes the tokens of one carrier, for one pool.
#[derive(Debug)]
pub struct TokenCodec {
    options: TokenOptions,
    context: Context,
    peer_context: Context,
}

/// A new token.
pub(super) struct IssuedToken {
    pub(super) token: String,
    /// The remaining lifetime of the session; `None` without an absolute timeout.
    pub(super) lifetime: Option<Duration>,
}

impl TokenCodec {
    /// A token is valid only for the `purpose`, pool and name that it was sealed for.
    pub(super) fn new(options: TokenOptions, purpose: &str, pool: &str, name: &str) -> Self {
        Self {
            options,
            context: Context::new(purpose, pool, name),
            peer_context: Context::new("hop", pool, name),
        }
    }

    pub(super) fn context(&self) -> &Context {
        &self.context
    }

    /// Whether tokens are sealed, so that they have a session, an epoch and timestamps.
    #[inline]
    pub(super) fn is_sealed(&self) -> bool {
        self.options.keys.is_some()
    }

    /// A new session identifier; `None` for plain tokens, which have none.
    pub(super) fn new_session(&self) -> Option<u64> {
        self.options.keys.as_ref().map(token::new_session)
    }

    /// How long an idle session is remembered; `None` without a limit.
    pub(super) fn idle_timeout(&self) -> Option<Duration> {
        self.options.idle_timeout.or(self.options.absolute_timeout)
    }

    /// Reads the pin in `token` into `reading`. Returns whether the token is valid.
    #[inline]
    pub(super) fn read(&self, token: &[u8], cx: &ReadContext<'_>, reading: &mut Reading) -> bool {
        // Each arm calls `record` itself: a common result would be passed through memory.
        match &self.options.keys {
            None => match Self::open_plain(token, cx) {
                Ok((tag, position)) => reading.accept_plain(tag, position),
                Err(reason) => reading.record(Err(reason.into())),
            },
            Some(keys) => reading.record(self.open_sealed(keys, token, cx)),
        }
    }

    /// The tag and the position of the backend that a plain token names.
    #[inline]
    fn open_plain(token: &[u8], cx: &ReadContext<'_>) -> Result<(u64, usize), Reason> {
        if token.is_empty() || token.len() > MAX_ID_LEN {
            return Err(Reason::Malformed);
        }
        let position = cx.index.position_of(token).ok_or(Reason::Unknown)?;
        Ok((cx.index.states()[position].tag, position))
    }

    // Not inlined: plain tokens would pay for the set-up of its stack frame.
    #[inline(never)]
    fn open_sealed(
        &self,
        keys: &KeyRing,
        token: &[u8],
        cx: &ReadContext<'_>,
    ) -> Result<ValidPin, RejectedToken> {
        let now = unix_millis(cx.clock) / 1000;
        let opened = token::open(keys, &self.context, token, now).map_err(Reason::from)?;
        self.validate(opened.pin, opened.key > 0, now, cx)
    }

    /// Checks the timestamps of an authentic pin, and looks its backend up in the pool.
    pub(super) fn validate(
        &self,
        pin: Pin,
        old_key: bool,
        now: u64,
        cx: &ReadContext<'_>,
    ) -> Result<ValidPin, RejectedToken> {
        let options = &self.options;
        let (issued, seen) = (u64::from(pin.issued), u64::from(pin.seen));
        let ahead = issued.max(seen).saturating_sub(now);
        if ahead > options.clock_skew.as_secs() {
            return Err(Reason::Malformed.into());
        }
        let (age, mut idle) = (now.saturating_sub(issued), now.saturating_sub(seen));
        if options.absolute_timeout.is_some_and(|timeout| age >= timeout.as_secs()) {
            return Err(Reason::ExpiredAbsolute.into());
        }
        let expires =
            |idle: u64| options.idle_timeout.is_some_and(|timeout| idle >= timeout.as_secs());
        let mut streamed = false;
        if expires(idle) || cx.idle_threshold.is_some_and(|threshold| idle >= threshold) {
            // A stream is activity of the session, as a request is.
            let seen = self.stream_seen(&pin, cx).filter(|seen| *seen < idle);
            streamed = seen.is_some();
            idle = seen.unwrap_or(idle);
        }
        if expires(idle) {
            return Err(Reason::ExpiredIdle.into());
        }
        let orphaned = RejectedToken { reason: Reason::Unknown, orphaned: Some(pin) };
        let position = cx.index.position(pin.backend).ok_or(orphaned)?;
        // A quarter of the idle timeout, rounded up, so that a new token is never due at once.
        let due = options.idle_timeout.is_some_and(|timeout| idle >= timeout.as_secs().div_ceil(4));
        // With a threshold the token is refreshed after a third of it, so `seen` is late by no more
        // than that.
        let (stale, is_idle) = cx.idle_threshold.map_or((false, false), |threshold| {
            let third = threshold.div_ceil(3);
            (idle >= third, idle >= threshold + third)
        });
        let refresh = due || stale || old_key || streamed || ahead > 0;
        Ok(ValidPin { pin, position, refresh, is_idle })
    }

    /// What a token is, for an explanation.
    pub(super) fn inspect(&self, carrier: &str, token: &[u8], cx: &ReadContext<'_>) -> Found {
        let Some(keys) = &self.options.keys else {
            let mut found = Found::new(FindingKind::PlainToken, carrier);
            match Self::open_plain(token, cx) {
                Ok((tag, _)) => found.backend = Some(tag),
                Err(reason) => found.problem = Some(reason),
            }
            return found;
        };
        let found = Found::new(FindingKind::SealedToken, carrier);
        let now = unix_millis(cx.clock) / 1000;
        match token::open(keys, &self.context, token, now) {
            Ok(opened) => self.inspect_pin(found, opened.pin, opened.key, cx),
            Err(unusable) => Found { problem: Some(unusable.into()), ..found },
        }
    }

    /// Adds to `found` what an authentic pin says, and whether it is valid.
    pub(super) fn inspect_pin(
        &self,
        found: Found,
        pin: Pin,
        key: usize,
        cx: &ReadContext<'_>,
    ) -> Found {
        let now = unix_millis(cx.clock) / 1000;
        let end = |from: u32, timeout: Option<Duration>| {
            timeout.map(|timeout| u64::from(from) + timeout.as_secs())
        };
        // An old key is no reason to reject a token.
        let validated = self.validate(pin, false, now, cx);
        Found {
            pin: Some(pin),
            backend: Some(pin.backend),
            problem: validated.err().map(|rejected| rejected.reason),
            key: Some(key),
            last_used: Some(u64::from(pin.seen)),
            idle_end: end(pin.seen, self.options.idle_timeout),
            absolute_end: end(pin.issued, self.options.absolute_timeout),
            ..found
        }
    }

    /// How many seconds ago a stream of the session was last open on this gateway.
    #[cold]
    fn stream_seen(&self, pin: &Pin, cx: &ReadContext<'_>) -> Option<u64> {
        let keep_alive = self.options.streams_keep_alive;
        let backend = cx.index.get(pin.backend).filter(|_| keep_alive)?;
        Some(backend.stream_seen(pin.session)?.as_secs())
    }

    /// The token for `commit`. `None` when the system's random number generator fails.
    pub(super) fn write(&self, commit: &Commit<'_>) -> Option<IssuedToken> {
        let Some(keys) = &self.options.keys else {
            let token = commit.backend.id.as_str().to_owned();
            return Some(IssuedToken { token, lifetime: None });
        };
        let pin = match (commit.change, commit.pin) {
            (Change::Refresh | Change::Keep, Some(pin)) if pin.session != 0 => {
                refreshed_pin(*pin, commit)
            }
            // The session continues, with its time of issue.
            (Change::Move | Change::Assign, Some(pin)) if pin.session != 0 => {
                moved_pin(*pin, commit)
            }
            _ => new_pin(keys, commit),
        };
        let remaining = |timeout: Duration| {
            let age = Duration::from_secs(u64::from(pin.seen.saturating_sub(pin.issued)));
            timeout.saturating_sub(age)
        };
        let token = token::seal(keys, &self.context, &pin)?;
        Some(IssuedToken { token, lifetime: self.options.absolute_timeout.map(remaining) })
    }

    /// The value with which a node marks a request that it forwards to its peer `to`: sealed when the
    /// tokens are, else the peer's id.
    pub(super) fn peer_token(&self, to: &BackendId) -> Option<String> {
        match &self.options.keys {
            Some(keys) => token::seal(keys, &self.peer_context, &Pin::plain(to.tag())),
            None => Some(to.as_str().to_owned()),
        }
    }

    /// Whether a peer made `value`, for any node of the pool.
    pub(super) fn is_peer_token(&self, value: &[u8], cx: &ReadContext<'_>) -> bool {
        let Some(keys) = &self.options.keys else {
            return cx.index.position_of(value).is_some();
        };
        let now = unix_millis(cx.clock) / 1000;
        token::open(keys, &self.peer_context, value, now).is_ok()
    }
}
