//! Several affinities in order.

use std::{sync::Arc, time::Duration};

use http::{HeaderMap, HeaderValue};

use super::{
    BoundAffinity, Change, Commit, Hashing, Head, Origin, ReadContext, Reading, RequestState,
    Second,
    traits::{Affinity, sealed::Bind},
};
use crate::{error::ConfigError, id::BackendId};

/// Several affinities in order of preference: the first for which the request carries something usable
/// decides, be it a pin or the key of a hash; when there is none, the strategy does.
///
/// A new session is remembered by every member that can remember, up to the key that decides. So with
/// a cookie before a user id the first request of a known user lands where the user id says, all its
/// parallel requests land there too, and from then on the cookie keeps it there, even when the id would
/// now say otherwise.
///
/// What decides does so alone. With a user id before a cookie, a request that has the id goes where the
/// id says, whatever its cookie says; no cookie is written for it, and a good one stays as it is, for the
/// requests without the id. While the backend that the id says is out, the next usable member decides,
/// here the cookie, and then the rank of the id.
///
/// When a member has the pin, tokens before it that are of no use are replaced, and missing ones are not
/// added. Each member needs a cookie or header of its own. One that is always there, such as
/// [`ClientIp`](crate::affinity::ClientIp), leaves nothing to decide for those behind it.
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

    /// Asks `next` when all before it have nothing to say.
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
        Ok(Arc::new(Bound { members, remembers }))
    }
}

#[derive(Debug)]
struct Bound {
    members: Vec<Arc<dyn BoundAffinity>>,
    remembers: bool,
}

impl BoundAffinity for Bound {
    fn read(&self, request: &Head<'_>, pool: &mut ReadContext<'_>) -> Reading {
        // Each member that carries something has it stripped, also behind the one that wins.
        let mut chosen = Reading { found: true, ..Reading::default() };
        let (mut bad, mut remembered) = (0, false);
        for (position, member) in self.members.iter().enumerate() {
            let reading = member.read(request, pool);
            if pool.later.is_some() {
                return chosen;
            }
            if reading.position.is_some() {
                let source = reading.source.within(position);
                return Reading { found: true, sole: false, source, bad, ..reading };
            }
            if is_key(member, &reading) {
                let second = pool.second.take().map(|second| second.within(position));
                pool.second = second.or_else(|| self.second(position + 1, request, pool));
                return Reading {
                    pin: chosen.pin.or(reading.pin),
                    key: reading.key,
                    reason: chosen.reason.or(reading.reason),
                    unavailable: chosen.unavailable || reading.unavailable,
                    decides: true,
                    alone: !remembered && (reading.alone || !member.remembers()),
                    source: reading.source.within(position),
                    ..chosen
                };
            }
            remembered |= member.remembers();
            if reading.reason.is_some() && member.remembers() {
                bad |= 1 << position;
            }
            let news = reading.pin.is_some() || reading.key.is_some();
            if news && chosen.pin.is_none() && chosen.key.is_none() {
                chosen.source = reading.source.within(position);
            }
            chosen.pin = chosen.pin.or(reading.pin);
            chosen.key = chosen.key.or(reading.key);
            chosen.reason = chosen.reason.or(reading.reason);
            chosen.unavailable |= reading.unavailable;
        }
        chosen
    }

    fn strip(&self, reading: &Reading, pool: &mut ReadContext<'_>, headers: &mut HeaderMap) {
        for member in &self.members {
            member.strip(reading, pool, headers);
        }
    }

    fn respond(
        &self,
        commit: &Commit<'_>,
        notes: &mut RequestState,
        headers: &mut HeaderMap,
    ) -> bool {
        let mut issued = false;
        let (from, source) = commit.source.split();
        let by_key = from > 0 && self.members.get(from).is_some_and(|member| !member.remembers());
        for (position, member) in self.members.iter().enumerate() {
            // A token that is due is written anew where it came from; a new one is written everywhere, up
            // to the key that decides.
            let change = match commit.change {
                Change::Assign if by_key && position > from => Change::Keep,
                // One that was of no use beside a good one is replaced as well.
                Change::Keep | Change::Refresh if commit.bad & (1 << position) != 0 => {
                    Change::Refresh
                }
                Change::Refresh if position != from => Change::Keep,
                change => change,
            };
            let source = if position == from { source } else { Origin::default() };
            issued |= member.respond(&Commit { change, source, bad: 0, ..*commit }, notes, headers);
        }
        issued
    }

    fn forget(&self, https: bool, notes: &mut RequestState, headers: &mut HeaderMap) {
        for member in &self.members {
            member.forget(https, notes, headers);
        }
    }

    fn remembers(&self) -> bool {
        self.remembers
    }

    fn new_session(&self) -> Option<u64> {
        self.members.iter().find_map(|member| member.new_session())
    }

    fn is_dated(&self) -> bool {
        self.members.iter().any(|member| member.is_dated())
    }

    fn idle_for(&self) -> Option<Duration> {
        // For ever is longer than anything.
        let members = self.members.iter().filter(|member| member.remembers());
        members
            .map(|member| member.idle_for())
            .try_fold(Duration::ZERO, |longest, idle| Some(longest.max(idle?)))
    }

    fn hashing(&self, source: Origin) -> Option<&Hashing> {
        let (position, source) = source.split();
        self.members.get(position)?.hashing(source)
    }

    fn hop(&self, to: &BackendId) -> Option<HeaderValue> {
        self.speaker()?.hop(to)
    }

    fn is_hop(&self, value: &HeaderValue, pool: &ReadContext<'_>) -> bool {
        self.speaker().is_some_and(|member| member.is_hop(value, pool))
    }
}

/// Whether it has the key of a hash, which is of use by itself; one of what remembers is not.
fn is_key(member: &Arc<dyn BoundAffinity>, reading: &Reading) -> bool {
    reading.decides || (!member.remembers() && reading.key.is_some())
}

impl Bound {
    /// The first usable thing from the member at `first` on.
    fn second(
        &self,
        first: usize,
        request: &Head<'_>,
        pool: &mut ReadContext<'_>,
    ) -> Option<Second> {
        for (position, member) in self.members.iter().enumerate().skip(first) {
            let reading = member.read(request, pool);
            if pool.later.is_some() {
                return None;
            }
            if let (Some(pin), Some(_)) = (reading.pin, reading.position) {
                return Some(Second::Pin(pin.backend));
            }
            if let Some(key) = reading.key.filter(|_| is_key(member, &reading)) {
                return Some(Second::Key(key, reading.source.within(position)));
            }
        }
        None
    }

    /// The member whose keys protect what peers say to each other.
    fn speaker(&self) -> Option<&Arc<dyn BoundAffinity>> {
        self.members.iter().find(|member| member.remembers()).or(self.members.first())
    }
}
