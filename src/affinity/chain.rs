//! Several affinities in order.

use std::sync::Arc;

use http::{HeaderMap, HeaderValue};

use super::{
    Affinity, BoundAffinity, Change, Commit, Hashing, Head, Look, Notes, Reading, sealed::Bind,
};
use crate::{BackendId, ConfigError};

/// Several affinities in order of preference: the first that yields a pin wins, else the first that
/// yields a key, else the strategy.
///
/// A new session is remembered by every member that can remember. So with a cookie before a user id
/// the first request of a known user lands where the user id says, all its parallel requests land
/// there too, and from then on the cookie keeps it there, even when the id would now say otherwise.
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
    fn read(&self, request: &Head<'_>, pool: &mut Look<'_>) -> Reading {
        // Each member that carries something has it stripped, also behind the one that wins.
        let mut chosen = Reading { found: true, ..Reading::default() };
        for (source, member) in self.members.iter().enumerate() {
            let reading = member.read(request, pool);
            if pool.later.is_some() {
                return chosen;
            }
            if reading.position.is_some() {
                return Reading { found: true, sole: false, source, ..reading };
            }
            chosen.pin = chosen.pin.or(reading.pin);
            chosen.key = chosen.key.or(reading.key);
            chosen.reason = chosen.reason.or(reading.reason);
        }
        chosen
    }

    fn strip(&self, reading: &Reading, pool: &mut Look<'_>, headers: &mut HeaderMap) {
        for member in &self.members {
            member.strip(reading, pool, headers);
        }
    }

    fn respond(&self, commit: &Commit<'_>, notes: &mut Notes, headers: &mut HeaderMap) -> bool {
        let mut issued = false;
        for (position, member) in self.members.iter().enumerate() {
            // A token that is due is written anew where it came from; a new one is written everywhere.
            let change = match commit.change {
                Change::Refresh if position != commit.source => Change::Keep,
                change => change,
            };
            issued |= member.respond(&Commit { change, ..*commit }, notes, headers);
        }
        issued
    }

    fn forget(&self, https: bool, notes: &mut Notes, headers: &mut HeaderMap) {
        for member in &self.members {
            member.forget(https, notes, headers);
        }
    }

    fn remembers(&self) -> bool {
        self.remembers
    }

    fn hashing(&self) -> Option<&Hashing> {
        self.members.iter().find_map(|member| member.hashing())
    }

    fn hop(&self, to: &BackendId) -> Option<HeaderValue> {
        self.speaker()?.hop(to)
    }

    fn is_hop(&self, value: &HeaderValue, here: &BackendId, pool: &Look<'_>) -> bool {
        self.speaker().is_some_and(|member| member.is_hop(value, here, pool))
    }
}

impl Bound {
    /// The member whose keys protect what peers say to each other.
    fn speaker(&self) -> Option<&Arc<dyn BoundAffinity>> {
        self.members.iter().find(|member| member.remembers()).or(self.members.first())
    }
}
