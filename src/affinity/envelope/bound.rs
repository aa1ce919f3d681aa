//! Envelopes in requests and responses.

use std::fmt;

use http::{HeaderMap, Uri};

use super::{
    carrier::{Carrier, Edit},
    query::QueryParameter,
};
use crate::{
    affinity::{
        BoundAffinity, Change, Commit, Head, ReadContext, Reading, RequestState, Strip,
        found::{FindingKind, Findings, Found},
        reading::{RejectedToken, ValidPin},
        request_state::{AffinityKey, OpenedEnvelope, Place, StateEntry},
        token_codec::{self, TokenCodec},
    },
    outcome::Reason,
    token::{self, EnvelopePayload, KeyRing},
    util::clock::unix_millis,
};

pub(super) struct Bound {
    pub(super) carrier: Carrier,
    /// Where a request may have the envelope as well.
    pub(super) query: Option<QueryParameter>,
    pub(super) keys: KeyRing,
    pub(super) tokens: TokenCodec,
}

impl Bound {
    fn affinity_key(&self) -> AffinityKey {
        AffinityKey::new(self)
    }

    /// Opens the envelopes of a request: those of the header or the cookie, then those of the query.
    fn open_all(&self, headers: &HeaderMap, uri: Option<&Uri>, cx: &ReadContext<'_>) -> Envelopes {
        let now = unix_millis(cx.clock) / 1000;
        let mut envelopes = Envelopes::default();
        let mut open = |place, value: &[u8]| {
            if !token::is_envelope(value) {
                return;
            }
            envelopes.found(place);
            let opened = token::open_envelope(&self.keys, self.tokens.context(), value, now);
            match opened {
                Ok((payload, key)) => {
                    let valid = self.tokens.validate(payload.pin, key > 0, now, cx);
                    envelopes.add(OpenedEnvelope { payload, place }, valid);
                }
                Err(unusable) => envelopes.reading.reject(Reason::from(unusable).into()),
            }
        };
        let mut count = 0;
        self.carrier.each(headers, |value| {
            open(Place::Carrier(count), value);
            count += 1;
        });
        if let (Some(query), Some(uri)) = (&self.query, uri) {
            query.each(uri, |position, value| open(Place::Query(position), value));
        }
        envelopes
    }

    /// What a value is, for an explanation, if it is an envelope.
    fn inspect_value(&self, carrier: String, value: &[u8], cx: &ReadContext<'_>) -> Option<Found> {
        if !token::is_envelope(value) {
            return None;
        }
        let now = unix_millis(cx.clock) / 1000;
        let envelope = Found::new(FindingKind::Envelope, carrier);
        let opened = token::open_envelope(&self.keys, self.tokens.context(), value, now);
        Some(match opened {
            Ok((payload, key)) => self.tokens.inspect_pin(envelope, payload.pin, key, cx),
            Err(unusable) => Found { problem: Some(unusable.into()), ..envelope },
        })
    }

    /// Records the envelope whose session the request continues.
    fn record(&self, envelopes: Envelopes, cx: &mut ReadContext<'_>) {
        if envelopes.reading.strip != Strip::Nothing && !self.is_recorded(cx.state) {
            let opened = StateEntry::Envelope(envelopes.best.or(envelopes.orphaned));
            cx.state.push(self.affinity_key(), opened);
        }
    }

    fn is_recorded(&self, state: &RequestState) -> bool {
        let opened = |entry: &StateEntry| matches!(entry, StateEntry::Envelope(_)).then_some(());
        state.find(self.affinity_key(), opened).is_some()
    }

    fn opened<'a>(&self, state: &'a RequestState) -> Option<&'a OpenedEnvelope> {
        state.find(self.affinity_key(), |entry| match entry {
            StateEntry::Envelope(opened) => opened.as_ref(),
            _ => None,
        })
    }

    fn seal(&self, payload: &EnvelopePayload) -> Option<Vec<u8>> {
        let sealed = token::seal_envelope(&self.keys, self.tokens.context(), payload);
        if sealed.is_none() {
            tracing::error!(
                carrier = ?self.carrier,
                length = payload.id.len(),
                "the session id of the application could not be wrapped; the session is not pinned"
            );
        }
        sealed
    }

    /// Replaces each session id in the response by an envelope. Returns whether one was replaced.
    fn wrap(
        &self,
        commit: &Commit<'_>,
        opened: Option<&OpenedEnvelope>,
        headers: &mut HeaderMap,
    ) -> bool {
        let now = unix_millis(commit.clock) / 1000;
        let mut wrapped = false;
        self.carrier.edit_response(headers, now, |value| {
            let current = opened.filter(|opened| *opened.payload.id == *value.id);
            let pin = match (current, commit.no_new_session) {
                (Some(opened), _) => continued_pin(opened, commit),
                (None, false) => token_codec::new_pin(&self.keys, commit),
                (None, true) => return None,
            };
            let (id, attributes) = (value.id.into(), value.attributes.into());
            let payload = EnvelopePayload { pin, expires: value.expires, id, attributes };
            let sealed = self.seal(&payload)?;
            wrapped = true;
            Some(sealed)
        });
        wrapped
    }
}

/// The pin of a session that continues, on the same backend or another one.
fn continued_pin(opened: &OpenedEnvelope, commit: &Commit<'_>) -> token::Pin {
    match commit.change {
        Change::Keep | Change::Refresh => token_codec::refreshed_pin(opened.payload.pin, commit),
        Change::Assign | Change::Move => token_codec::moved_pin(opened.payload.pin, commit),
    }
}

/// The envelopes of a request.
#[derive(Debug, Default)]
struct Envelopes {
    reading: Reading,
    /// The valid one that counts: the first, or of one session the one with the highest epoch.
    best: Option<OpenedEnvelope>,
    /// The first authentic one whose backend has left the pool.
    orphaned: Option<OpenedEnvelope>,
}

impl Envelopes {
    fn found(&mut self, place: Place) {
        match place {
            Place::Query(_) => self.reading.strip = Strip::TokensAndQuery,
            Place::Carrier(_) if self.reading.strip == Strip::Nothing => {
                self.reading.strip = Strip::Tokens;
            }
            Place::Carrier(_) => {}
        }
    }

    fn add(&mut self, opened: OpenedEnvelope, valid: Result<ValidPin, RejectedToken>) {
        match valid {
            Ok(valid) => {
                let before = self.reading.pin;
                self.reading.accept(valid);
                if self.reading.pin != before {
                    self.best = Some(opened);
                }
            }
            Err(rejected) => {
                self.reading.reject(rejected);
                if rejected.orphaned.is_some() {
                    self.orphaned.get_or_insert(opened);
                }
            }
        }
    }
}

impl BoundAffinity for Bound {
    fn read(&self, head: &Head<'_>, cx: &mut ReadContext<'_>) -> Reading {
        let envelopes = self.open_all(head.headers, Some(head.uri), cx);
        let reading = envelopes.reading;
        self.record(envelopes, cx);
        reading
    }

    fn inspect(&self, head: &Head<'_>, cx: &mut ReadContext<'_>, found: &mut Findings) -> Reading {
        self.carrier.each(head.headers, |value| {
            found.extend(self.inspect_value(self.carrier.to_string(), value, cx));
        });
        if let Some(query) = &self.query {
            query.each(head.uri, |_, value| {
                found.extend(self.inspect_value(query.to_string(), value, cx));
            });
        }
        self.read(head, cx)
    }

    fn strip(&self, _: &Reading, cx: &mut ReadContext<'_>, headers: &mut HeaderMap) {
        if !self.is_recorded(cx.state) {
            let envelopes = self.open_all(headers, None, cx);
            if envelopes.reading.strip == Strip::Nothing {
                return;
            }
            self.record(envelopes, cx);
        }
        let opened = self.opened(cx.state);
        let mut count = 0;
        self.carrier.edit_request(headers, |value| {
            let edit = edit(value, opened, Place::Carrier(count));
            count += 1;
            edit
        });
    }

    fn strips_query(&self) -> bool {
        self.query.is_some()
    }

    fn strip_query(&self, uri: &Uri, cx: &mut ReadContext<'_>) -> Option<Uri> {
        let query = self.query.as_ref()?;
        if !self.is_recorded(cx.state) {
            let envelopes = self.open_all(&HeaderMap::new(), Some(uri), cx);
            self.record(envelopes, cx);
        }
        let opened = self.opened(cx.state);
        query.edit(uri, |position, value| edit(value, opened, Place::Query(position)))
    }

    fn save(&self, commit: &Commit<'_>, state: &mut RequestState, headers: &mut HeaderMap) -> bool {
        let opened = self.opened(state);
        let wrote = if self.carrier.is_in(headers) {
            // An id that the application removes stays removed.
            self.wrap(commit, opened, headers)
        } else if let Some(opened) = opened
            && commit.change != Change::Keep
        {
            let payload =
                EnvelopePayload { pin: continued_pin(opened, commit), ..opened.payload.clone() };
            let now = unix_millis(commit.clock) / 1000;
            self.seal(&payload)
                .is_some_and(|sealed| self.carrier.write(&sealed, &payload, now, headers))
        } else {
            false
        };
        if wrote {
            self.carrier.make_private(headers);
        }
        wrote
    }

    fn clear(&self, _: bool, state: &mut RequestState, headers: &mut HeaderMap) {
        let attributes = self.opened(state).map(|opened| &*opened.payload.attributes);
        self.carrier.clear(attributes, headers);
        self.carrier.make_private(headers);
    }

    fn carrier(&self) -> Option<String> {
        Some(match &self.carrier {
            Carrier::Cookie(_, name) => format!("the cookie {name:?}"),
            Carrier::Header(name) => format!("the header {:?}", name.as_str()),
        })
    }

    fn tokens(&self) -> Option<&TokenCodec> {
        Some(&self.tokens)
    }
}

/// What becomes of a value of a request: the application gets its own id, and sees no other envelope.
fn edit<'a>(value: &[u8], opened: Option<&'a OpenedEnvelope>, place: Place) -> Edit<'a> {
    match opened {
        _ if !token::is_envelope(value) => Edit::Keep,
        Some(opened) if opened.place == place => Edit::Replace(&opened.payload.id),
        _ => Edit::Remove,
    }
}

impl fmt::Debug for Bound {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Envelope").field("carrier", &self.carrier).finish_non_exhaustive()
    }
}
