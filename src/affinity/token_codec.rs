//! The token of a session, from its first date to its last: what the carriers (cookie, header) share.

use std::time::Duration;

use super::{
    Change, Commit, ReadContext, Reading,
    reading::{RejectedToken, ValidPin},
};
use crate::{
    error::ConfigError,
    id::{BackendId, MAX_ID_LEN},
    outcome::Reason,
    token::{self, Context, KeyRing, Pin, Unusable},
    util::clock::unix_millis,
};

/// How far a token's dates may lie ahead unless somebody says otherwise: gateways' clocks differ.
const CLOCK_SKEW: Duration = Duration::from_secs(3600);

/// What a user chose.
#[derive(Debug, Clone)]
pub(super) struct TokenLifetime {
    /// `None` for a plain token.
    pub(super) keys: Option<KeyRing>,
    pub(super) idle: Option<Duration>,
    pub(super) absolute: Option<Duration>,
    /// How far its dates may lie ahead.
    pub(super) skew: Duration,
    /// Whether an open stream keeps its session from idling out.
    pub(super) streams: bool,
}

impl TokenLifetime {
    pub(super) fn new(keys: Option<KeyRing>) -> Self {
        Self { keys, idle: None, absolute: None, skew: CLOCK_SKEW, streams: true }
    }

    /// What is wrong with it, as the end of a sentence about its carrier.
    pub(super) fn check(&self) -> Result<(), String> {
        if self.keys.is_none() && (self.idle.is_some() || self.absolute.is_some()) {
            return Err("a plain token has no dates, so it cannot have timeouts; use a sealed one"
                .to_owned());
        }
        for (name, timeout) in [("idle", self.idle), ("absolute", self.absolute)] {
            if timeout.is_some_and(|timeout| timeout < Duration::from_secs(1)) {
                return Err(format!("the {name} timeout must be at least one second"));
            }
        }
        Ok(())
    }
}

impl TokenLifetime {
    /// What identifies a session that begins now.
    pub(super) fn new_session(&self) -> Option<u64> {
        self.keys.as_ref().map(token::new_session)
    }

    /// Whether tokens say when their sessions were last seen.
    pub(super) fn is_dated(&self) -> bool {
        self.keys.is_some()
    }

    /// For how long a session that is idle is remembered.
    pub(super) fn idle_for(&self) -> Option<Duration> {
        self.idle.or(self.absolute)
    }

    /// Whether an authentic pin is in time and of a backend in the pool.
    pub(super) fn judge(
        &self,
        pin: Pin,
        old_key: bool,
        now: u64,
        pool: &ReadContext<'_>,
    ) -> Result<ValidPin, RejectedToken> {
        let (issued, seen) = (u64::from(pin.issued), u64::from(pin.seen));
        let ahead = issued.max(seen).saturating_sub(now);
        if ahead > self.skew.as_secs() {
            return Err(Reason::Malformed.into());
        }
        let (age, mut idle) = (now.saturating_sub(issued), now.saturating_sub(seen));
        if self.absolute.is_some_and(|timeout| age >= timeout.as_secs()) {
            return Err(Reason::ExpiredAbsolute.into());
        }
        let expires = |idle: u64| self.idle.is_some_and(|timeout| idle >= timeout.as_secs());
        let mut streamed = false;
        if expires(idle) || pool.rest.is_some_and(|rest| idle >= rest) {
            // A stream of the session is as good a sight as a request.
            let seen = self.stream_seen(&pin, pool).filter(|seen| *seen < idle);
            streamed = seen.is_some();
            idle = seen.unwrap_or(idle);
        }
        if expires(idle) {
            return Err(Reason::ExpiredIdle.into());
        }
        let gone = RejectedToken { reason: Reason::Unknown, gone: Some(pin) };
        let position = pool.index.position(pin.backend).ok_or(gone)?;
        // A quarter of the idle timeout, rounded up, so that it is never due at once.
        let due = self.idle.is_some_and(|timeout| idle >= timeout.as_secs().div_ceil(4));
        // While that matters, the date is written anew after a third of the rest that is asked for, so
        // that it is late by no more than that.
        let (stale, rested) = pool.rest.map_or((false, false), |rest| {
            let late = rest.div_ceil(3);
            (idle >= late, idle >= rest + late)
        });
        Ok(ValidPin {
            pin,
            position,
            refresh: due || stale || old_key || streamed || ahead > 0,
            rested,
        })
    }
}

impl TokenLifetime {
    /// How many seconds ago a stream of the session was seen on this gateway.
    #[cold]
    fn stream_seen(&self, pin: &Pin, pool: &ReadContext<'_>) -> Option<u64> {
        let backend = pool.index.get(pin.backend).filter(|_| self.streams)?;
        Some(backend.stream_seen(pin.session)?.as_secs())
    }
}

impl From<Unusable> for Reason {
    fn from(unusable: Unusable) -> Self {
        match unusable {
            Unusable::Malformed => Self::Malformed,
            Unusable::Forged => Self::Forged,
            Unusable::OtherPool => Self::OtherPool,
        }
    }
}

/// The pin of a session that begins on the backend of `commit`.
pub(super) fn begin(keys: &KeyRing, commit: &Commit<'_>) -> Pin {
    let millis = unix_millis(commit.clock);
    let session = commit.plan.session.unwrap_or_else(|| token::new_session(keys));
    let (epoch, now) = (commit.plan.epoch, (millis / 1000) as u32);
    commit.began.set(session);
    Pin { backend: commit.backend.tag, session, epoch, issued: now, seen: now }
}

/// The pin of a session that goes on where it was. Its first date changes only when it lies ahead: then
/// another gateway's clock is.
pub(super) fn keep(pin: Pin, commit: &Commit<'_>) -> Pin {
    let now = (unix_millis(commit.clock) / 1000) as u32;
    let epoch = commit.plan.epoch.max(pin.epoch);
    Pin { epoch, issued: pin.issued.min(now), seen: now, ..pin }
}

/// The pin of a session that goes on at the backend of `commit`.
pub(super) fn moved(pin: Pin, commit: &Commit<'_>) -> Pin {
    let epoch = commit.plan.epoch.max(pin.epoch.saturating_add(1));
    Pin { backend: commit.backend.tag, epoch, ..keep(pin, commit) }
}

/// An error about `carrier`, such as `the cookie "sid"`.
pub(super) fn refuse(carrier: &str, why: &str) -> ConfigError {
    ConfigError::new(format!("{carrier}: {why}"))
}

/// Reads and writes the tokens of one carrier, for one pool.
#[derive(Debug)]
pub(super) struct TokenCodec {
    life: TokenLifetime,
    context: Context,
    hop: Context,
}

/// A new token, and how long the session may last from now on.
pub(super) struct IssuedToken {
    pub(super) token: String,
    pub(super) left: Option<Duration>,
}

impl TokenCodec {
    /// `purpose` and `name` tell carriers apart: a token of one is worth nothing in another.
    pub(super) fn new(life: TokenLifetime, purpose: &str, pool: &str, name: &str) -> Self {
        Self {
            life,
            context: Context::new(purpose, pool, name),
            hop: Context::new("hop", pool, name),
        }
    }

    pub(super) fn life(&self) -> &TokenLifetime {
        &self.life
    }

    pub(super) fn context(&self) -> &Context {
        &self.context
    }

    /// Whether of two good tokens the second may be the one to follow: tokens have epochs.
    #[inline]
    pub(super) fn have_epochs(&self) -> bool {
        self.life.keys.is_some()
    }

    /// Reads the pin that `token` stands for, and tells whether it is of use.
    #[inline]
    pub(super) fn read(&self, token: &[u8], pool: &ReadContext<'_>, reading: &mut Reading) -> bool {
        // Each kind is settled by itself: if both met in one result, it would go through memory.
        match &self.life.keys {
            None => reading.settle(Self::look_up(token, pool)),
            Some(keys) => reading.settle(self.open(keys, token, pool)),
        }
    }

    /// A plain token.
    #[inline]
    fn look_up(token: &[u8], pool: &ReadContext<'_>) -> Result<ValidPin, RejectedToken> {
        if token.is_empty() || token.len() > MAX_ID_LEN {
            return Err(Reason::Malformed.into());
        }
        let position = pool.index.position_of(token).ok_or(Reason::Unknown)?;
        let pin = Pin::plain(pool.index.states()[position].tag);
        Ok(ValidPin { pin, position, refresh: false, rested: false })
    }

    /// A sealed token.
    // Not inlined: what it asks for would be looked up for plain tokens too.
    #[inline(never)]
    fn open(
        &self,
        keys: &KeyRing,
        token: &[u8],
        pool: &ReadContext<'_>,
    ) -> Result<ValidPin, RejectedToken> {
        let now = unix_millis(pool.clock) / 1000;
        let opened = token::open(keys, &self.context, token, now).map_err(Reason::from)?;
        self.life.judge(opened.pin, opened.old_key, now, pool)
    }

    /// The token for what has become of the pin. `None` when the system has no randomness to give.
    pub(super) fn write(&self, commit: &Commit<'_>) -> Option<IssuedToken> {
        let Some(keys) = &self.life.keys else {
            return Some(IssuedToken { token: commit.backend.id.as_str().to_owned(), left: None });
        };
        let pin = match (commit.change, commit.pin) {
            (Change::Refresh | Change::Keep, Some(pin)) if pin.session != 0 => keep(*pin, commit),
            // The session goes on, its first date with it.
            (Change::Move | Change::Assign, Some(pin)) if pin.session != 0 => moved(*pin, commit),
            _ => begin(keys, commit),
        };
        let left = |timeout: Duration| {
            let age = Duration::from_secs(u64::from(pin.seen.saturating_sub(pin.issued)));
            timeout.saturating_sub(age)
        };
        let token = token::seal(keys, &self.context, &pin)?;
        Some(IssuedToken { token, left: self.life.absolute.map(left) })
    }

    /// What a node says to its peer `to` when it forwards a request to it: unforgeable if the tokens
    /// are.
    pub(super) fn hop(&self, to: &BackendId) -> Option<String> {
        match &self.life.keys {
            Some(keys) => token::seal(keys, &self.hop, &Pin::plain(to.tag())),
            None => Some(to.as_str().to_owned()),
        }
    }

    /// Whether a peer said it, to whomever.
    pub(super) fn is_hop(&self, value: &[u8], pool: &ReadContext<'_>) -> bool {
        let Some(keys) = &self.life.keys else {
            return pool.index.position_of(value).is_some();
        };
        let now = unix_millis(pool.clock) / 1000;
        token::open(keys, &self.hop, value, now).is_ok()
    }
}
