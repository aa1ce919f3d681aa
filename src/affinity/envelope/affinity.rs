//! `Envelope`: the application's own session id, sealed together with the pin.

use std::{fmt, sync::Arc};

use http::HeaderMap;

use super::carrier::{Carrier, Edit};
use crate::{
    affinity::{
        BoundAffinity, Change, Commit, Head, ReadContext, Reading, RequestState, Strip,
        cookie::{parse, set_cookie},
        found::{FindingKind, Found},
        header::header_name,
        request_state::{AffinityKey, OpenedEnvelope, StateEntry},
        token_codec::{self, TokenCodec},
        token_options::{TokenOptions, invalid, token_setters},
        traits::sealed::Bind,
    },
    error::ConfigError,
    outcome::Reason,
    token::{self, EnvelopePayload, KeyRing},
    util::clock::unix_millis,
};

/// The application's own session id, sealed together with the pin in responses and restored in
/// requests: for applications that issue an id, such as `JSESSIONID` or `Mcp-Session-Id`. It needs no
/// table and no second cookie.
///
/// The client has one opaque value, sealed like the tokens of [`Cookie::sealed`](crate::affinity::Cookie::sealed);
/// the application receives its own id, byte for byte. A session begins when the application sets the
/// id, and is pinned to the backend that did. A response that removes the cookie, or sends the header
/// empty, is not changed. When the session moves, or its envelope is refreshed, the response sets the
/// cookie again with the attributes that the application gave it, and with the remaining time of its
/// `Max-Age` or `Expires`.
///
/// # Values in a request
///
/// - The first valid envelope has the pin, and the application receives its id. Other envelopes are
///   removed, also those that are forged or have expired.
/// - The id in an authentic envelope whose backend has left the pool is kept: another backend receives
///   it.
/// - A value that is not an envelope, such as an id that was issued before this layer was deployed, is
///   forwarded as it is, and has no pin.
///
/// # Limits
///
/// - An id and the attributes of its cookie that together exceed 2,048 bytes cannot be sealed: they are
///   sent as they are, an error is logged, and the session is not pinned.
/// - Scripts and servers of the same site that read the cookie see the envelope.
/// - A client that uses the header of its first response only, as clients of the Model Context
///   Protocol do, misses later envelopes. Do not set an idle timeout for them. A session that has
///   moved moves again with each request, always to the same backend.
/// - In a response that must not begin a session
///   ([`SessionAction::NoPin`](crate::SessionAction::NoPin), [`Preference`](crate::Preference), a bypass) a new
///   id is sent as it is.
///
/// # Example
///
/// ```
/// use std::time::Duration;
/// use tower_sticky::{KeyRing, affinity::Envelope};
///
/// let keys = KeyRing::generate()?; // in production KeyRing::from_env("STICKY_KEY")
/// let sessions = Envelope::cookie("JSESSIONID", keys.clone())
///     .idle_timeout(Duration::from_secs(30 * 60));
/// let tools = Envelope::header("mcp-session-id", keys);
/// # Ok::<(), tower_sticky::ConfigError>(())
/// ```
#[derive(Clone)]
pub struct Envelope {
    carrier: CarrierName,
    tokens: TokenOptions,
}

#[derive(Debug, Clone)]
enum CarrierName {
    Cookie(String),
    Header(String),
}

impl Envelope {
    /// The id is in a cookie that the application sets.
    pub fn cookie(name: impl Into<String>, keys: KeyRing) -> Self {
        Self { carrier: CarrierName::Cookie(name.into()), tokens: TokenOptions::new(Some(keys)) }
    }

    /// The id is in a header, which the application sets in a response and the client sends back.
    pub fn header(name: impl Into<String>, keys: KeyRing) -> Self {
        Self { carrier: CarrierName::Header(name.into()), tokens: TokenOptions::new(Some(keys)) }
    }

    token_setters! {
        /// Ends a session that has sent no request for this long, in whole seconds, checked by the
        /// gateway: the application does not receive its id any more. The envelope is refreshed when a
        /// quarter of that time has passed.
        idle_timeout,

        /// Ends a session this long after the application set its id, in whole seconds, checked by
        /// the gateway.
        absolute_timeout,
    }
}

impl fmt::Debug for Envelope {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Envelope").field("carrier", &self.carrier).finish_non_exhaustive()
    }
}

impl Bind for Envelope {
    fn bind(&self, pool: &str) -> Result<Arc<dyn BoundAffinity>, ConfigError> {
        let (purpose, kind, name, carrier) = match &self.carrier {
            CarrierName::Cookie(name) => {
                set_cookie::check_name(name)?;
                let carrier = Carrier::Cookie(Box::new(parse::Name::new(name)), name.clone());
                ("envelope cookie", "cookie", &**name, carrier)
            }
            CarrierName::Header(name) => {
                ("envelope header", "header", &**name, Carrier::Header(header_name(name)?))
            }
        };
        self.tokens.check(&format!("the {kind} {name:?}"))?;
        let Some(keys) = self.tokens.keys.clone() else {
            return Err(invalid(name, "an envelope needs keys"));
        };
        // The token is bound to the normalized header name.
        let name = match &carrier {
            Carrier::Cookie(..) => name,
            Carrier::Header(name) => name.as_str(),
        };
        let tokens = TokenCodec::new(self.tokens.clone(), purpose, pool, name);
        Ok(Arc::new(Bound { carrier, keys, tokens }))
    }
}

pub(super) struct Bound {
    carrier: Carrier,
    keys: KeyRing,
    tokens: TokenCodec,
}

impl Bound {
    fn affinity_key(&self) -> AffinityKey {
        AffinityKey::new(self)
    }

    /// Opens the envelopes of a request. The first valid one counts; of two valid ones of one session the
    /// one with the higher epoch.
    fn read_envelopes(
        &self,
        headers: &HeaderMap,
        context: &ReadContext<'_>,
    ) -> (Reading, Option<OpenedEnvelope>) {
        let now = unix_millis(context.clock) / 1000;
        let mut reading = Reading::default();
        let (mut best, mut orphaned) = (None, None);
        let mut count = 0;
        self.carrier.each(headers, |value| {
            count += 1;
            if !token::is_envelope(value) {
                return;
            }
            reading.strip = Strip::Tokens;
            let opened = token::open_envelope(&self.keys, self.tokens.context(), value, now);
            let (payload, key) = match opened {
                Ok(opened) => opened,
                Err(unusable) => {
                    reading.reject(Reason::from(unusable).into());
                    return;
                }
            };
            let validated = self.tokens.validate(payload.pin, key > 0, now, context);
            let opened = OpenedEnvelope { payload, position: count - 1 };
            match validated {
                Ok(valid) => {
                    reading.accept(valid);
                    if reading.pin == Some(valid.pin) {
                        best = Some(opened);
                    }
                }
                Err(rejected) => {
                    reading.reject(rejected);
                    if rejected.orphaned.is_some() {
                        orphaned.get_or_insert(opened);
                    }
                }
            }
        });
        (reading, best.or(orphaned))
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

    /// Replaces each session id in the response by an envelope.
    fn wrap(
        &self,
        commit: &Commit<'_>,
        opened: Option<&OpenedEnvelope>,
        headers: &mut HeaderMap,
    ) -> WrapResult {
        let now = unix_millis(commit.clock) / 1000;
        let mut result = WrapResult::default();
        self.carrier.edit_response(headers, now, |value| {
            result.has_id = true;
            let current = opened.filter(|opened| *opened.payload.id == *value.id);
            let pin = match (current, commit.no_new_session) {
                (Some(opened), _) => continued_pin(opened, commit),
                (None, false) => token_codec::new_pin(&self.keys, commit),
                (None, true) => return None,
            };
            let (id, attributes) = (value.id.into(), value.attributes.into());
            let payload = EnvelopePayload { pin, expires: value.expires, id, attributes };
            let sealed = self.seal(&payload)?;
            result.wrapped = true;
            Some(sealed)
        });
        result
    }
}

/// The session ids in a response of the application.
#[derive(Debug, Default)]
pub(super) struct WrapResult {
    /// Whether the response set an id.
    has_id: bool,
    /// Whether an id was replaced by an envelope.
    wrapped: bool,
}

/// The pin of a session that continues, on the same backend or another one.
fn continued_pin(opened: &OpenedEnvelope, commit: &Commit<'_>) -> token::Pin {
    match commit.change {
        Change::Keep | Change::Refresh => token_codec::refreshed_pin(opened.payload.pin, commit),
        Change::Assign | Change::Move => token_codec::moved_pin(opened.payload.pin, commit),
    }
}

impl BoundAffinity for Bound {
    fn read(&self, request: &Head<'_>, context: &mut ReadContext<'_>) -> Reading {
        let (reading, opened) = self.read_envelopes(request.headers, context);
        if reading.strip != Strip::Nothing && !self.is_recorded(context.state) {
            context.state.push(self.affinity_key(), StateEntry::Envelope(opened));
        }
        reading
    }

    fn inspect(
        &self,
        request: &Head<'_>,
        context: &mut ReadContext<'_>,
        found: &mut Vec<Found>,
    ) -> Reading {
        let now = unix_millis(context.clock) / 1000;
        self.carrier.each(request.headers, |value| {
            if !token::is_envelope(value) {
                return;
            }
            let envelope = Found::new(FindingKind::Envelope, self.carrier.to_string());
            let opened = token::open_envelope(&self.keys, self.tokens.context(), value, now);
            found.push(match opened {
                Ok((payload, key)) => self.tokens.inspect_pin(envelope, payload.pin, key, context),
                Err(unusable) => Found { problem: Some(unusable.into()), ..envelope },
            });
        });
        self.read(request, context)
    }

    fn strip(&self, _: &Reading, context: &mut ReadContext<'_>, headers: &mut HeaderMap) {
        if !self.is_recorded(context.state) {
            let (reading, opened) = self.read_envelopes(headers, context);
            if reading.strip == Strip::Nothing {
                return;
            }
            context.state.push(self.affinity_key(), StateEntry::Envelope(opened));
        }
        let opened = self.opened(context.state);
        let mut count = 0;
        self.carrier.edit_request(headers, |value| {
            count += 1;
            match opened {
                _ if !token::is_envelope(value) => Edit::Keep,
                Some(opened) if opened.position == count - 1 => Edit::Replace(&opened.payload.id),
                _ => Edit::Remove,
            }
        });
    }

    fn save(&self, commit: &Commit<'_>, state: &mut RequestState, headers: &mut HeaderMap) -> bool {
        let opened = self.opened(state);
        let mut wrote = false;
        if self.carrier.is_in(headers) {
            let removed = self.carrier.removes(headers, unix_millis(commit.clock) / 1000);
            let result = self.wrap(commit, opened, headers);
            if result.has_id || removed {
                if result.wrapped {
                    self.carrier.make_private(headers);
                }
                return result.wrapped;
            }
        }
        if let Some(opened) = opened
            && commit.change != Change::Keep
        {
            let payload =
                EnvelopePayload { pin: continued_pin(opened, commit), ..opened.payload.clone() };
            let now = unix_millis(commit.clock) / 1000;
            wrote = self
                .seal(&payload)
                .is_some_and(|sealed| self.carrier.write(&sealed, &payload, now, headers));
        }
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

impl fmt::Debug for Bound {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Envelope").field("carrier", &self.carrier).finish_non_exhaustive()
    }
}
