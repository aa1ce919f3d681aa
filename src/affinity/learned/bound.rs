//! `Learned` with its configuration checked: reads ids from requests, and learns them from responses.

use std::{fmt, hash::Hasher as _, sync::Arc, time::Duration};

use http::{Extensions, HeaderMap, Method, Uri};
use siphasher::sip128::{Hasher128, SipHasher13};

use super::response_ids;
use crate::{
    affinity::{
        BoundAffinity, Change, Commit, Head, ReadContext, Reading, RequestState,
        found::{FindingKind, Findings, Found},
        id_source::BoundSource,
        pending_lookup::PendingLookup,
        request_state::{AffinityKey, LearnedSession, StateEntry},
    },
    outcome::Reason,
    store::{Answer, Lookup, PinStore, SessionKey, StoredPin},
    util::clock::unix_millis,
};

pub(super) struct Bound {
    pub(super) source: BoundSource,
    pub(super) hasher: SipHasher13,
    pub(super) idle: Duration,
    /// In seconds.
    pub(super) absolute: Option<u64>,
    pub(super) end_on_delete: bool,
    pub(super) store: Arc<dyn PinStore>,
}

/// The session ids in a response.
#[derive(Default)]
struct ResponseIds {
    /// Whether it sets an id that the request did not have.
    new: bool,
    /// Whether it sets the id that the request had.
    same: bool,
    /// Whether it removes the id.
    removed: bool,
}

impl Bound {
    fn affinity_key(&self) -> AffinityKey {
        AffinityKey::new(self)
    }

    fn session_key(&self, id: &[u8]) -> SessionKey {
        let mut hasher = self.hasher;
        hasher.write(id);
        SessionKey::new(hasher.finish128())
    }

    /// Looks a session up in the store by `get`; `None` when the lookup is pending.
    fn look_up(
        &self,
        key: SessionKey,
        cx: &mut ReadContext<'_>,
        get: impl Fn(&dyn PinStore, SessionKey) -> Lookup,
    ) -> Option<Answer> {
        let complete = cx.state.find_mut(self.affinity_key(), |entry| match entry {
            // A request with several ids is read once for each pending lookup.
            StateEntry::Lookup(of, answer) if *of == key => Some(match answer {
                Answer::Pin(pin, open) => Answer::Pin(*pin, open.take()),
                Answer::Idle => Answer::Idle,
                Answer::Nothing => Answer::Nothing,
                Answer::Unavailable => Answer::Unavailable,
            }),
            _ => None,
        });
        if complete.is_some() {
            return complete;
        }
        match get(&*self.store, key) {
            Lookup::Now(answer) => Some(answer),
            Lookup::Later(lookup) => {
                cx.pending = Some(PendingLookup::new(self.affinity_key(), key, lookup));
                None
            }
        }
    }

    fn session<'a>(&self, state: &'a RequestState) -> Option<&'a LearnedSession> {
        state.find(self.affinity_key(), |entry| match entry {
            StateEntry::Learned(session) => Some(session),
            _ => None,
        })
    }

    fn record(&self, state: &mut RequestState, session: LearnedSession) {
        state.push(self.affinity_key(), StateEntry::Learned(session));
    }

    /// Stores the pin of a session that the application has begun, and keeps it from expiring until the
    /// response has ended.
    fn put(&self, key: SessionKey, pin: StoredPin, state: &mut RequestState) {
        let _open = self.store.put(key, pin, self.idle);
        self.record(
            state,
            LearnedSession { key, pin: Some(pin), expired: false, ends: false, _open },
        );
    }

    /// Stores the pin of a session that this gateway has assigned or moved.
    fn claim(
        &self,
        key: SessionKey,
        pin: StoredPin,
        stored: Option<StoredPin>,
        state: &mut RequestState,
    ) {
        let _open = self.store.claim(key, pin, stored, self.idle);
        self.record(
            state,
            LearnedSession { key, pin: Some(pin), expired: false, ends: false, _open },
        );
    }

    /// Reads the ids of a request, whose pins `get` looks up in the store.
    fn read_by(
        &self,
        head: &Head<'_>,
        cx: &mut ReadContext<'_>,
        get: impl Fn(&dyn PinStore, SessionKey) -> Lookup,
    ) -> Reading {
        // Without a valid pin, the session whose backend has left the pool counts, else the first id.
        let (mut orphaned, mut first) = (None, None);
        let mut reading = Reading::default();
        let now = unix_millis(cx.clock) / 1000;
        let ends = self.end_on_delete && head.method == Method::DELETE;
        let valid = self.source.find(head, |id| {
            let key = self.session_key(id);
            let reason = match self.look_up(key, cx, &get) {
                // The request is read again once the lookup is complete.
                None => return Some(Reading::default()),
                Some(Answer::Pin(pin, open)) => {
                    let age = now.saturating_sub(u64::from(pin.issued));
                    let position = cx.index.position(pin.backend);
                    if self.absolute.is_some_and(|timeout| age >= timeout) {
                        first.get_or_insert((key, Some(pin), true));
                        Some(Reason::ExpiredAbsolute)
                    } else if let Some(position) = position {
                        let (known, expired) = (Some(pin), false);
                        let session =
                            LearnedSession { key, pin: known, expired, ends, _open: open };
                        self.record(cx.state, session);
                        let (pin, position) = (Some(pin.pin(&key)), Some(position));
                        return Some(Reading { pin, position, ..Reading::default() });
                    } else {
                        orphaned.get_or_insert((key, Some(pin), false));
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
        if let Some(reading) = valid {
            return reading;
        }
        if let Some((key, pin, expired)) = orphaned.or(first) {
            reading.key = Some(key.session());
            self.record(cx.state, LearnedSession { key, pin, expired, ends, _open: None });
        } else if matches!(self.source, BoundSource::Path(_)) {
            let path = head.client_path().into();
            cx.state.push(self.affinity_key(), StateEntry::Path(path));
        }
        reading
    }

    /// Reads the ids in the response, and stores the new ones.
    fn learn(
        &self,
        key: Option<SessionKey>,
        commit: &Commit<'_>,
        state: &mut RequestState,
        headers: &HeaderMap,
    ) -> ResponseIds {
        let mut ids = ResponseIds::default();
        let now = unix_millis(commit.clock) / 1000;
        let state_path = state.find(self.affinity_key(), |entry| match entry {
            StateEntry::Path(path) => Some(path.clone()),
            _ => None,
        });
        let read = |id: Option<&[u8]>| match id.map(|id| self.session_key(id)) {
            None => ids.removed = true,
            found if found == key => ids.same = true,
            Some(new) => {
                ids.new = true;
                if !commit.no_new_session {
                    let backend = commit.backend.tag;
                    let pin =
                        StoredPin { backend, epoch: commit.planned.epoch, issued: now as u32 };
                    commit.new_session.set(new.session());
                    self.put(new, pin, state);
                }
            }
        };
        let path = state_path.as_deref();
        response_ids::each(&self.source, commit.status, path, headers, now, read);
        ids
    }
}

impl BoundAffinity for Bound {
    fn read(&self, head: &Head<'_>, cx: &mut ReadContext<'_>) -> Reading {
        self.read_by(head, cx, |store, key| store.get(key, self.idle))
    }

    fn inspect(&self, head: &Head<'_>, cx: &mut ReadContext<'_>, found: &mut Findings) -> Reading {
        let reading = self.read_by(head, cx, |store, key| store.peek(key, self.idle));
        let has_id = reading.pin.is_some() || reading.key.is_some();
        if cx.pending.is_none() && (has_id || reading.unavailable) {
            let absolute = reading.pin.zip(self.absolute);
            found.push(Found {
                pin: reading.pin,
                backend: reading.pin.map(|pin| pin.backend),
                problem: reading.reason.filter(|_| reading.position.is_none()),
                absolute_end: absolute.map(|(pin, timeout)| u64::from(pin.issued) + timeout),
                ..Found::new(FindingKind::LearnedId, self.source.to_string())
            });
        }
        reading
    }

    /// There is nothing to strip. The id is recorded when another member of a chain had the pin, so that
    /// the response can be compared with it.
    fn strip(&self, _: &Reading, cx: &mut ReadContext<'_>, headers: &mut HeaderMap) {
        if self.session(cx.state).is_some() {
            return;
        }
        if !matches!(self.source, BoundSource::Cookie(_) | BoundSource::Header(_)) {
            return;
        }
        let (uri, extensions) = (Uri::default(), Extensions::new());
        let head = Head { method: &Method::GET, uri: &uri, headers, extensions: &extensions };
        if let Some(key) = self.source.find(&head, |id| Some(self.session_key(id))) {
            self.record(
                cx.state,
                LearnedSession { key, pin: None, expired: false, ends: false, _open: None },
            );
        }
    }

    fn save(&self, commit: &Commit<'_>, state: &mut RequestState, headers: &mut HeaderMap) -> bool {
        let known = self.session(state).map(|session| (session.key, session.pin, session.expired));
        let ids = self.learn(known.map(|(key, ..)| key), commit, state, headers);
        let Some((key, stored, expired)) = known else {
            return false;
        };
        if commit.status.is_success() && self.session(state).is_some_and(|session| session.ends) {
            self.store.remove(key);
            commit.ended.set(true);
            return false;
        }
        if ids.same || !(ids.new || ids.removed) {
            // The pin of the same backend is outdated when the address of the backend has changed.
            let outdated = stored.is_some_and(|pin| {
                pin.backend == commit.backend.tag && pin.epoch < commit.planned.epoch
            });
            if matches!(commit.change, Change::Assign | Change::Move)
                || (outdated && commit.change == Change::Refresh)
            {
                let now = (unix_millis(commit.clock) / 1000) as u32;
                let planned = commit.planned.epoch;
                let epoch = stored.map_or(planned, |pin| planned.max(pin.epoch.saturating_add(1)));
                let issued = stored.filter(|_| !expired).map_or(now, |pin| pin.issued);
                let backend = commit.backend.tag;
                self.claim(key, StoredPin { backend, epoch, issued }, stored, state);
            }
        } else if ids.removed || !commit.no_new_session {
            self.store.remove(key);
        }
        false
    }

    fn idle_timeout(&self) -> Option<Duration> {
        Some(self.idle)
    }

    fn clear(&self, _: bool, state: &mut RequestState, _: &mut HeaderMap) {
        if let Some(session) = self.session(state) {
            self.store.remove(session.key);
        }
    }
}

impl fmt::Debug for Bound {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Learned")
            .field("source", &self.source)
            .field("store", &self.store)
            .finish_non_exhaustive()
    }
}
