//! `Chain`: several affinities in order of preference.

use std::{sync::Arc, time::Duration};

use http::{HeaderMap, HeaderValue, Uri};

use super::{
    BoundAffinity, Change, Commit, Fallback, Findings, Hashing, Head, KeyRole, Origin, ReadContext,
    Reading, RequestState, Strip,
    traits::{Affinity, sealed::Bind},
};
use crate::{error::ConfigError, id::BackendId};

/// Several affinities in order of preference. The first member for which the request has a valid pin or
/// a key routes it; when there is none, the strategy chooses a backend.
///
/// A new session is remembered by every member that stores pins, up to the key that decides. For
/// example with a cookie before a user id, the first request of a known user and all parallel ones are
/// routed by the hash of the id. From then on the cookie keeps the session on that backend, also when
/// the hash would now choose another one.
///
/// Members after the one that decides are not used. With a user id before a cookie, a request that has
/// the id is routed by the id, whatever its cookie is: no cookie is written for it, and a valid one is
/// left as it is for requests without the id. While the backend of the id is out, the next usable
/// member decides, here the cookie, and then the next backend in the rank of the id.
///
/// When a member has a valid pin, rejected tokens of members before it are replaced, and missing ones
/// are not added. Each member needs its own cookie or header. Members after one whose key every request
/// has, such as [`ClientIp`](crate::affinity::ClientIp), are never used.
///
/// # Example
///
/// ```
/// use tower_sticky::{KeyRing, affinity::{Chain, Cookie, Key}};
///
/// let keys = KeyRing::generate()?; // in production KeyRing::from_env("STICKY_KEY")
/// let chain = Chain::of(Cookie::sealed("sid", keys)).or(Key::header("x-user-id"));
/// # Ok::<(), tower_sticky::ConfigError>(())
/// ```
#[derive(Debug, Clone)]
pub struct Chain {
    members: Vec<Arc<dyn Affinity>>,
}

impl Chain {
    /// A chain that begins with `first`.
    pub fn of(first: impl Affinity) -> Self {
        Self { members: vec![Arc::new(first)] }
    }

    /// Adds `next`, which is used when no member before it has a usable value.
    #[must_use]
    pub fn or(mut self, next: impl Affinity) -> Self {
        self.members.push(Arc::new(next));
        self
    }
}

impl Bind for Chain {
    fn bind(&self, pool: &str) -> Result<Arc<dyn BoundAffinity>, ConfigError> {
        let members: Result<Vec<_>, _> =
            self.members.iter().map(|member| member.bind(pool)).collect();
        let mut members = members?;
        if members.len() == 1 {
            return Ok(members.remove(0));
        }
        if members.len() > Origin::MAX {
            return Err(ConfigError::new(format!(
                "a chain has {} members; use at most {}",
                members.len(),
                Origin::MAX
            )));
        }
        let mut carriers: Vec<_> = members.iter().filter_map(|member| member.carrier()).collect();
        carriers.sort_unstable();
        if let Some(twice) = carriers.windows(2).find(|pair| pair[0] == pair[1]) {
            return Err(ConfigError::new(format!(
                "two members of a chain use {}; give each a name of its own",
                twice[0]
            )));
        }
        let remembers = members.iter().any(|member| member.remembers());
        let strips_query = members.iter().any(|member| member.strips_query());
        let strip = if strips_query { Strip::TokensAndQuery } else { Strip::Tokens };
        Ok(Arc::new(Bound { members, remembers, strip }))
    }
}

#[derive(Debug)]
struct Bound {
    members: Vec<Arc<dyn BoundAffinity>>,
    remembers: bool,
    /// `strip` is called for every member, also for those after the one with the pin.
    strip: Strip,
}

impl BoundAffinity for Bound {
    fn read(&self, head: &Head<'_>, cx: &mut ReadContext<'_>) -> Reading {
        self.read_by(cx, |member, cx| member.read(head, cx))
    }

    fn inspect(&self, head: &Head<'_>, cx: &mut ReadContext<'_>, found: &mut Findings) -> Reading {
        self.read_by(cx, |member, cx| member.inspect(head, cx, found))
    }

    fn strip(&self, reading: &Reading, cx: &mut ReadContext<'_>, headers: &mut HeaderMap) {
        for member in &self.members {
            member.strip(reading, cx, headers);
        }
    }

    fn strips_query(&self) -> bool {
        self.strip == Strip::TokensAndQuery
    }

    fn strip_query(&self, uri: &Uri, cx: &mut ReadContext<'_>) -> Option<Uri> {
        let mut stripped = None;
        for member in &self.members {
            let next = member.strip_query(stripped.as_ref().unwrap_or(uri), cx);
            stripped = next.or(stripped);
        }
        stripped
    }

    fn save(&self, commit: &Commit<'_>, state: &mut RequestState, headers: &mut HeaderMap) -> bool {
        let mut issued = false;
        let (from, origin) = commit.origin.split();
        let by_key = from > 0 && self.members.get(from).is_some_and(|member| !member.remembers());
        for (position, member) in self.members.iter().enumerate() {
            // A refreshed token is written by the member that it came from; a new pin is saved by all
            // members, up to the key that decides.
            let change = match commit.change {
                Change::Assign if by_key && position > from => Change::Keep,
                // A rejected token beside a valid one is replaced as well.
                Change::Keep | Change::Refresh if commit.rejected & (1 << position) != 0 => {
                    Change::Refresh
                }
                Change::Refresh if position != from => Change::Keep,
                change => change,
            };
            let origin = if position == from { origin } else { Origin::default() };
            issued |=
                member.save(&Commit { change, origin, rejected: 0, ..*commit }, state, headers);
        }
        issued
    }

    fn saves_nothing(&self, headers: &HeaderMap) -> bool {
        self.members.iter().all(|member| member.saves_nothing(headers))
    }

    fn clear(&self, https: bool, state: &mut RequestState, headers: &mut HeaderMap) {
        for member in &self.members {
            member.clear(https, state, headers);
        }
    }

    fn remembers(&self) -> bool {
        self.remembers
    }

    fn new_session(&self) -> Option<u64> {
        self.members.iter().find_map(|member| member.new_session())
    }

    fn is_sealed(&self) -> bool {
        self.members.iter().any(|member| member.is_sealed())
    }

    fn idle_timeout(&self) -> Option<Duration> {
        // The longest one; a member without a limit has the longest.
        let members = self.members.iter().filter(|member| member.remembers());
        members
            .map(|member| member.idle_timeout())
            .try_fold(Duration::ZERO, |longest, idle| Some(longest.max(idle?)))
    }

    fn route(&self, tag: u64, id: &BackendId) -> Option<String> {
        self.members.iter().find_map(|member| member.route(tag, id))
    }

    fn hashing(&self, origin: Origin) -> Option<&Hashing> {
        let (position, origin) = origin.split();
        self.members.get(position)?.hashing(origin)
    }

    fn peer_token(&self, to: &BackendId) -> Option<HeaderValue> {
        self.peer_member()?.peer_token(to)
    }

    fn is_peer_token(&self, value: &HeaderValue, cx: &ReadContext<'_>) -> bool {
        self.peer_member().is_some_and(|member| member.is_peer_token(value, cx))
    }
}

/// Whether `reading` has a key that routes requests. The key of a member that remembers pins only
/// identifies the session.
fn is_key(member: &Arc<dyn BoundAffinity>, reading: &Reading) -> bool {
    reading.key_role != KeyRole::Identifies || (!member.remembers() && reading.key.is_some())
}

impl Bound {
    /// Reads a request: each member by `read`, up to the one that decides.
    fn read_by(
        &self,
        cx: &mut ReadContext<'_>,
        mut read: impl FnMut(&dyn BoundAffinity, &mut ReadContext<'_>) -> Reading,
    ) -> Reading {
        let mut chosen = Reading { strip: self.strip, ..Reading::default() };
        let (mut rejected, mut remembered) = (0, false);
        for (position, member) in self.members.iter().enumerate() {
            let reading = read(&**member, cx);
            if cx.pending.is_some() {
                return chosen;
            }
            if reading.position.is_some() {
                let origin = reading.origin.within(position);
                return Reading { strip: self.strip, origin, rejected, ..reading };
            }
            if is_key(member, &reading) {
                let inner = cx.fallback.take().map(|fallback| fallback.within(position));
                cx.fallback = inner.or_else(|| self.fallback(position + 1, cx, &mut read));
                let is_stateless = !remembered
                    && (reading.key_role == KeyRole::RoutesAlways || !member.remembers());
                return Reading {
                    pin: chosen.pin.or(reading.pin),
                    key: reading.key,
                    reason: chosen.reason.or(reading.reason),
                    unavailable: chosen.unavailable || reading.unavailable,
                    key_role: if is_stateless { KeyRole::RoutesAlways } else { KeyRole::Routes },
                    origin: reading.origin.within(position),
                    ..chosen
                };
            }
            remembered |= member.remembers();
            if reading.reason.is_some() && member.remembers() {
                rejected |= 1 << position;
            }
            let has_value = reading.pin.is_some() || reading.key.is_some();
            if has_value && chosen.pin.is_none() && chosen.key.is_none() {
                chosen.origin = reading.origin.within(position);
            }
            chosen.pin = chosen.pin.or(reading.pin);
            chosen.key = chosen.key.or(reading.key);
            chosen.reason = chosen.reason.or(reading.reason);
            chosen.unavailable |= reading.unavailable;
        }
        chosen
    }

    /// The first valid pin or usable key of the members from `first` on.
    fn fallback(
        &self,
        first: usize,
        cx: &mut ReadContext<'_>,
        mut read: impl FnMut(&dyn BoundAffinity, &mut ReadContext<'_>) -> Reading,
    ) -> Option<Fallback> {
        for (position, member) in self.members.iter().enumerate().skip(first) {
            let reading = read(&**member, cx);
            if cx.pending.is_some() {
                return None;
            }
            if let Some(position) = reading.position {
                return Some(Fallback::Pin(cx.index.states()[position].tag));
            }
            if let Some(key) = reading.key.filter(|_| is_key(member, &reading)) {
                return Some(Fallback::Key(key, reading.origin.within(position)));
            }
        }
        None
    }

    /// The member that makes and checks the tokens of peers.
    fn peer_member(&self) -> Option<&Arc<dyn BoundAffinity>> {
        self.members.iter().find(|member| member.remembers()).or(self.members.first())
    }
}
