//! The learned id at work.

use std::{fmt, hash::Hasher as _, sync::Arc, time::Duration};

use http::{HeaderMap, HeaderName, header::SET_COOKIE};
use siphasher::sip128::{Hasher128, SipHasher13};

use super::carrier::Carrier;
use crate::{
    affinity::{
        BoundAffinity, Change, Commit, Head, ReadContext, Reading, RequestState,
        cookie::parse,
        pending_lookup::PendingLookup,
        request_state::{AffinityKey, Known, StateEntry},
        response_cookie::ResponseCookie,
    },
    outcome::Reason,
    store::{Answer, Lookup, PinStore, SessionKey, StoredPin},
    util::clock::unix_millis,
};

/// How many ids of one request are looked up: a client that sends more has not got them from us.
const MAX_IDS: usize = 8;

pub(super) struct Bound {
    pub(super) carrier: Carrier<(parse::Name, String), HeaderName>,
    pub(super) hasher: SipHasher13,
    pub(super) idle: Duration,
    /// In seconds.
    pub(super) absolute: Option<u64>,
    pub(super) store: Arc<dyn PinStore>,
}

/// What a response says of ids.
#[derive(Default)]
struct ResponseIds {
    /// It sets ids that the request did not have.
    new: bool,
    /// It sets the id that the request had.
    same: bool,
    /// It removes the id.
    removed: bool,
}

impl Bound {
    fn author(&self) -> AffinityKey {
        AffinityKey::new(self)
    }

    fn key(&self, id: &[u8]) -> SessionKey {
        let mut hasher = self.hasher;
        hasher.write(id);
        SessionKey::new(hasher.finish128())
    }

    /// Calls `visit` with each id of a request until it breaks.
    fn ids<'a, B>(
        &self,
        headers: &'a HeaderMap,
        mut visit: impl FnMut(&'a [u8]) -> Option<B>,
    ) -> Option<B> {
        match &self.carrier {
            Carrier::Cookie((name, _)) => {
                let mut cookies = parse::Cookies::new(headers);
                let ids = std::iter::from_fn(|| cookies.next(name));
                ids.filter(|id| !id.is_empty()).take(MAX_IDS).find_map(visit)
            }
            Carrier::Header(name) => {
                let ids = headers.get_all(name).iter().map(|value| value.as_bytes());
                ids.filter(|id| !id.is_empty()).take(MAX_IDS).find_map(&mut visit)
            }
        }
    }

    /// What the table knows; `None` when that takes its time.
    fn look_up(&self, key: SessionKey, pool: &mut ReadContext<'_>) -> Option<Answer> {
        let noted = pool.notes.find_mut(self.author(), |note| match note {
            // The request may be read several times, if it has several ids.
            StateEntry::Answered(of, answer) if *of == key => Some(match answer {
                Answer::Pin(pin, open) => Answer::Pin(*pin, open.take()),
                Answer::Idle => Answer::Idle,
                Answer::Nothing => Answer::Nothing,
                Answer::Unavailable => Answer::Unavailable,
            }),
            _ => None,
        });
        if noted.is_some() {
            return noted;
        }
        match self.store.get(key, self.idle) {
            Lookup::Now(answer) => Some(answer),
            Lookup::Later(lookup) => {
                pool.later = Some(PendingLookup::new(self.author(), key, lookup));
                None
            }
        }
    }

    fn known<'a>(&self, notes: &'a RequestState) -> Option<&'a Known> {
        notes.find(self.author(), |note| match note {
            StateEntry::Known(known) => Some(known),
            _ => None,
        })
    }

    fn note(&self, notes: &mut RequestState, known: Known) {
        notes.push(self.author(), StateEntry::Known(known));
    }

    /// Remembers where the application has begun a session, and keeps it alive until the answer has
    /// ended.
    fn put(&self, key: SessionKey, pin: StoredPin, notes: &mut RequestState) {
        let _open = self.store.put(key, pin, self.idle);
        self.note(notes, Known { key, pin: Some(pin), over: false, _open });
    }

    /// The same where it was for us to say.
    fn claim(
        &self,
        key: SessionKey,
        pin: StoredPin,
        known: Option<StoredPin>,
        notes: &mut RequestState,
    ) {
        let _open = self.store.claim(key, pin, known, self.idle);
        self.note(notes, Known { key, pin: Some(pin), over: false, _open });
    }

    /// Reads what the response says, and learns the ids that are new.
    fn listen(
        &self,
        key: Option<SessionKey>,
        commit: &Commit<'_>,
        notes: &mut RequestState,
        headers: &HeaderMap,
    ) -> ResponseIds {
        let mut word = ResponseIds::default();
        let now = unix_millis(commit.clock) / 1000;
        let mut hear = |id: Option<&[u8]>| match id.map(|id| self.key(id)) {
            None => word.removed = true,
            said if said == key => word.same = true,
            Some(new) => {
                word.new = true;
                if !commit.silent {
                    let backend = commit.backend.tag;
                    let pin = StoredPin { backend, epoch: commit.plan.epoch, issued: now as u32 };
                    commit.began.set(new.session());
                    self.put(new, pin, notes);
                }
            }
        };
        match &self.carrier {
            Carrier::Cookie((_, name)) => {
                for field in headers.get_all(SET_COOKIE) {
                    if let Some(said) = ResponseCookie::of(field.as_bytes(), name) {
                        hear(said.id(now).map(parse::unquote));
                    }
                }
            }
            Carrier::Header(name) => {
                for value in headers.get_all(name) {
                    hear(Some(value.as_bytes()).filter(|id| !id.is_empty()));
                }
            }
        }
        word
    }
}

impl BoundAffinity for Bound {
    fn read(&self, request: &Head<'_>, pool: &mut ReadContext<'_>) -> Reading {
        // Without a usable pin: the session whose backend has left the pool, else the first id.
        let (mut homeless, mut first) = (None, None);
        let mut reading = Reading::default();
        let now = unix_millis(pool.clock) / 1000;
        let usable = self.ids(request.headers, |id| {
            let key = self.key(id);
            let reason = match self.look_up(key, pool) {
                // Asked again once the store has answered.
                None => return Some(Reading::default()),
                Some(Answer::Pin(pin, open)) => {
                    let age = now.saturating_sub(u64::from(pin.issued));
                    let position = pool.index.position(pin.backend);
                    if self.absolute.is_some_and(|timeout| age >= timeout) {
                        first.get_or_insert((key, Some(pin), true));
                        Some(Reason::ExpiredAbsolute)
                    } else if let Some(position) = position {
                        self.note(
                            pool.notes,
                            Known { key, pin: Some(pin), over: false, _open: open },
                        );
                        let pin = Some(pin.pin(&key));
                        return Some(Reading {
                            pin,
                            position: Some(position),
                            ..Reading::default()
                        });
                    } else {
                        homeless.get_or_insert((key, Some(pin), false));
                        reading.pin = reading.pin.or(Some(pin.pin(&key)));
                        Some(Reason::Unknown)
                    }
                }
                Some(Answer::Idle) => Some(Reason::ExpiredIdle),
                Some(Answer::Nothing) => None,
                Some(Answer::Unavailable) => {
                    reading.unavailable = true;
                    None
                }
            };
            first.get_or_insert((key, None, false));
            reading.reason = reading.reason.or(reason);
            None
        });
        if let Some(usable) = usable {
            return usable;
        }
        if let Some((key, pin, over)) = homeless.or(first) {
            reading.key = Some(key.session());
            self.note(pool.notes, Known { key, pin, over, _open: None });
        }
        reading
    }

    /// Nothing of ours is in the request; but behind another pin of a chain the id is noted, so that
    /// what the answer says of it is understood.
    fn strip(&self, _: &Reading, pool: &mut ReadContext<'_>, headers: &mut HeaderMap) {
        if self.known(pool.notes).is_some() {
            return;
        }
        if let Some(key) = self.ids(headers, |id| Some(self.key(id))) {
            self.note(pool.notes, Known { key, pin: None, over: false, _open: None });
        }
    }

    fn respond(
        &self,
        commit: &Commit<'_>,
        notes: &mut RequestState,
        headers: &mut HeaderMap,
    ) -> bool {
        let known = self.known(notes).map(|known| (known.key, known.pin, known.over));
        let word = self.listen(known.map(|(key, ..)| key), commit, notes, headers);
        let Some((key, known, over)) = known else {
            return false;
        };
        if word.same || !(word.new || word.removed) {
            // At the same backend, when it is reached at another address since.
            let outdated = known.is_some_and(|pin| {
                pin.backend == commit.backend.tag && pin.epoch < commit.plan.epoch
            });
            if matches!(commit.change, Change::Assign | Change::Move)
                || (outdated && commit.change == Change::Refresh)
            {
                let now = (unix_millis(commit.clock) / 1000) as u32;
                let planned = commit.plan.epoch;
                let epoch = known.map_or(planned, |pin| planned.max(pin.epoch.saturating_add(1)));
                let issued = known.filter(|_| !over).map_or(now, |pin| pin.issued);
                let backend = commit.backend.tag;
                self.claim(key, StoredPin { backend, epoch, issued }, known, notes);
            }
        } else if word.removed || !commit.silent {
            self.store.remove(key);
        }
        false
    }

    fn idle_for(&self) -> Option<Duration> {
        Some(self.idle)
    }

    fn forget(&self, _: bool, notes: &mut RequestState, _: &mut HeaderMap) {
        if let Some(known) = self.known(notes) {
            self.store.remove(known.key);
        }
    }
}

impl fmt::Debug for Bound {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Learned")
            .field("carrier", &self.carrier)
            .field("store", &self.store)
            .finish_non_exhaustive()
    }
}
