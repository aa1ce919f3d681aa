//! `Envelope`: the application's own session id, wrapped with the pin.

use std::{fmt, sync::Arc, time::Duration};

use http::{HeaderMap, HeaderValue};

use super::carrier::{Carrier, Edit};
use crate::{
    affinity::{
        BoundAffinity, Change, Commit, Head, ReadContext, Reading, RequestState,
        cookie::{parse, set_cookie},
        header::header_name,
        request_state::{AffinityKey, Opened, StateEntry},
        token_codec::{self, TokenCodec, TokenLifetime, refuse},
        traits::sealed::Bind,
    },
    error::ConfigError,
    id::BackendId,
    outcome::Reason,
    token::{self, EnvelopePayload, KeyRing},
    util::clock::unix_millis,
};

/// The application's own session id, wrapped with our pin on the way out and restored on the way in:
/// for applications that issue an id, such as `JSESSIONID` or `Mcp-Session-Id`. No table, and no
/// second cookie.
///
/// The client has one opaque value, sealed like the tokens of [`Cookie::sealed`](crate::affinity::Cookie::sealed);
/// the application sees its own id and nothing else, byte for byte. A session begins when the
/// application sets the id, and is pinned to the backend that did. A response that removes the
/// cookie, or sends the header empty, passes as it is. When the session moves, or its envelope is due
/// to be written anew, the response sets the cookie again with the attributes that the application
/// gave it, and with what is left of its `Max-Age` or `Expires`.
///
/// # What is in a request
///
/// - The first usable envelope gives the pin, and the application gets its id; other envelopes are
///   taken out. So are those that are forged or have expired, which are no pin, each for its reason.
/// - The id in an authentic envelope whose backend is not in the pool any more is not lost: another
///   backend gets it.
/// - A value that is no envelope at all, such as an id from before the first deployment, passes as it
///   is, and is no pin.
///
/// # Limits
///
/// - An id and its cookie's attributes of together more than 2,048 bytes cannot be wrapped: they pass
///   as they are, with an error in the log, and the session is not pinned.
/// - Scripts and servers of the same site that read the cookie see the envelope.
/// - A client that takes the header from its first response only, as those of the Model Context
///   Protocol do, misses a later envelope. Do not set an idle timeout for them; a session that has
///   moved then moves again with each request, always to the same backend.
/// - On a response that is not to begin a session
///   ([`SessionAction::NoPin`](crate::SessionAction::NoPin), [`Preference`](crate::Wish), a bypass) a new id
///   passes as it is.
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
    place: Place,
    life: TokenLifetime,
}

#[derive(Debug, Clone)]
pub(super) enum Place {
    Cookie(String),
    Header(String),
}

impl Envelope {
    /// The id is in a cookie that the application sets.
    pub fn cookie(name: impl Into<String>, keys: KeyRing) -> Self {
        Self { place: Place::Cookie(name.into()), life: TokenLifetime::new(Some(keys)) }
    }

    /// The id is in a header: the application's response says it, and the client sends it back.
    pub fn header(name: impl Into<String>, keys: KeyRing) -> Self {
        Self { place: Place::Header(name.into()), life: TokenLifetime::new(Some(keys)) }
    }

    /// Ends a session that has sent no request for this long, in whole seconds, checked on our side:
    /// the application does not get its id any more. The envelope is written anew once a quarter of
    /// it has passed.
    #[must_use]
    pub fn idle_timeout(mut self, timeout: Duration) -> Self {
        self.life.idle = Some(timeout);
        self
    }

    /// Ends a session this long after the application set its id, in whole seconds, checked on our
    /// side.
    #[must_use]
    pub fn absolute_timeout(mut self, timeout: Duration) -> Self {
        self.life.absolute = Some(timeout);
        self
    }

    /// How far the dates of a token may lie ahead of this gateway's clock, in whole seconds; default 1
    /// hour. One that lies within it is accepted, and written anew with dates of now; one further ahead
    /// is [malformed](crate::Reason::Malformed). The idle timeout must exceed the difference of the
    /// gateways' clocks.
    #[must_use]
    pub fn clock_skew(mut self, skew: Duration) -> Self {
        self.life.skew = skew;
        self
    }

    /// Whether an open response, event stream or WebSocket of a session keeps it from idling out on this
    /// gateway, and its end counts as the last sight of the session; default `true`. The absolute timeout
    /// is not extended. Other gateways do not know of the stream: a session whose next request goes to
    /// one of them is idle there.
    #[must_use]
    pub fn streams_keep_alive(mut self, keep_alive: bool) -> Self {
        self.life.streams = keep_alive;
        self
    }
}

impl fmt::Debug for Envelope {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Envelope").field("place", &self.place).finish_non_exhaustive()
    }
}

impl Bind for Envelope {
    fn bind(&self, pool: &str) -> Result<Arc<dyn BoundAffinity>, ConfigError> {
        let (purpose, kind, name, carrier) = match &self.place {
            Place::Cookie(name) => {
                set_cookie::check_name(name)?;
                let carrier = Carrier::Cookie(Box::new(parse::Name::new(name)), name.clone());
                ("envelope cookie", "cookie", &**name, carrier)
            }
            Place::Header(name) => {
                ("envelope header", "header", &**name, Carrier::Header(header_name(name)?))
            }
        };
        self.life.check().map_err(|why| refuse(&format!("the {kind} {name:?}"), &why))?;
        let Some(keys) = self.life.keys.clone() else {
            return Err(refuse(name, "an envelope needs keys"));
        };
        // Header names have one spelling in the token, however they are written here.
        let name = match &carrier {
            Carrier::Cookie(..) => name,
            Carrier::Header(name) => name.as_str(),
        };
        let tokens = TokenCodec::new(self.life.clone(), purpose, pool, name);
        Ok(Arc::new(Bound { carrier, keys, tokens }))
    }
}

pub(super) struct Bound {
    carrier: Carrier,
    keys: KeyRing,
    tokens: TokenCodec,
}

impl Bound {
    fn author(&self) -> AffinityKey {
        AffinityKey::new(self)
    }

    /// Opens the envelopes of a request. The first usable one counts; of two of one session that of the
    /// later epoch.
    fn survey(&self, headers: &HeaderMap, pool: &ReadContext<'_>) -> (Reading, Option<Opened>) {
        let now = unix_millis(pool.clock) / 1000;
        let mut reading = Reading::default();
        let (mut best, mut homeless) = (None, None);
        let mut nth = 0;
        self.carrier.each(headers, |value| {
            nth += 1;
            if !token::is_envelope(value) {
                return;
            }
            reading.found = true;
            let opened = token::open_envelope(&self.keys, self.tokens.context(), value, now);
            let (letter, old_key) = match opened {
                Ok(opened) => opened,
                Err(unusable) => {
                    reading.refuse(Reason::from(unusable).into());
                    return;
                }
            };
            let judged = self.tokens.life().judge(letter.pin, old_key, now, pool);
            let opened = Opened { letter, nth: nth - 1 };
            match judged {
                Ok(usable) => {
                    reading.accept(usable);
                    if reading.pin == Some(usable.pin) {
                        best = Some(opened);
                    }
                }
                Err(refused) => {
                    reading.refuse(refused);
                    if refused.gone.is_some() {
                        homeless.get_or_insert(opened);
                    }
                }
            }
        });
        (reading, best.or(homeless))
    }

    fn is_noted(&self, notes: &RequestState) -> bool {
        let opened = |note: &StateEntry| matches!(note, StateEntry::Opened(_)).then_some(());
        notes.find(self.author(), opened).is_some()
    }

    fn opened<'a>(&self, notes: &'a RequestState) -> Option<&'a Opened> {
        notes.find(self.author(), |note| match note {
            StateEntry::Opened(opened) => opened.as_ref(),
            _ => None,
        })
    }

    fn seal(&self, letter: &EnvelopePayload) -> Option<Vec<u8>> {
        let sealed = token::seal_envelope(&self.keys, self.tokens.context(), letter);
        if sealed.is_none() {
            tracing::error!(
                carrier = ?self.carrier,
                length = letter.id.len(),
                "the session id of the application could not be wrapped; the session is not pinned"
            );
        }
        sealed
    }

    /// Wraps what the application has set. Tells what it said.
    fn wrap(
        &self,
        commit: &Commit<'_>,
        opened: Option<&Opened>,
        headers: &mut HeaderMap,
    ) -> WrapResult {
        let now = unix_millis(commit.clock) / 1000;
        let mut word = WrapResult::default();
        self.carrier.edit_response(headers, now, |said| {
            word.spoke = true;
            let known = opened.filter(|opened| *opened.letter.id == *said.id);
            let pin = match (known, commit.silent) {
                (Some(known), _) => continued(known, commit),
                (None, false) => token_codec::begin(&self.keys, commit),
                (None, true) => return None,
            };
            let (id, attributes) = (said.id.into(), said.attributes.into());
            let letter = EnvelopePayload { pin, expires: said.expires, id, attributes };
            let sealed = self.seal(&letter)?;
            word.wrapped = true;
            Some(sealed)
        });
        word
    }
}

/// What the application said of its id with a response.
#[derive(Debug, Default)]
pub(super) struct WrapResult {
    /// It set it.
    spoke: bool,
    /// It set it, and that was wrapped.
    wrapped: bool,
}

/// The pin of a session that goes on, maybe elsewhere.
pub(super) fn continued(opened: &Opened, commit: &Commit<'_>) -> token::Pin {
    match commit.change {
        Change::Keep | Change::Refresh => token_codec::keep(opened.letter.pin, commit),
        Change::Assign | Change::Move => token_codec::moved(opened.letter.pin, commit),
    }
}

impl BoundAffinity for Bound {
    fn read(&self, request: &Head<'_>, pool: &mut ReadContext<'_>) -> Reading {
        let (reading, opened) = self.survey(request.headers, pool);
        if reading.found && !self.is_noted(pool.notes) {
            pool.notes.push(self.author(), StateEntry::Opened(opened));
        }
        reading
    }

    fn strip(&self, _: &Reading, pool: &mut ReadContext<'_>, headers: &mut HeaderMap) {
        if !self.is_noted(pool.notes) {
            let (reading, opened) = self.survey(headers, pool);
            if !reading.found {
                return;
            }
            pool.notes.push(self.author(), StateEntry::Opened(opened));
        }
        let opened = self.opened(pool.notes);
        let mut nth = 0;
        self.carrier.edit_request(headers, |value| {
            nth += 1;
            match opened {
                _ if !token::is_envelope(value) => Edit::Keep,
                Some(opened) if opened.nth == nth - 1 => Edit::Replace(&opened.letter.id),
                _ => Edit::Remove,
            }
        });
    }

    fn respond(
        &self,
        commit: &Commit<'_>,
        notes: &mut RequestState,
        headers: &mut HeaderMap,
    ) -> bool {
        let opened = self.opened(notes);
        let mut wrote = false;
        if self.carrier.is_in(headers) {
            let removed = self.carrier.removes(headers, unix_millis(commit.clock) / 1000);
            let word = self.wrap(commit, opened, headers);
            if word.spoke || removed {
                if word.wrapped {
                    self.carrier.make_private(headers);
                }
                return word.wrapped;
            }
        }
        if let Some(opened) = opened
            && commit.change != Change::Keep
        {
            let letter =
                EnvelopePayload { pin: continued(opened, commit), ..opened.letter.clone() };
            let now = unix_millis(commit.clock) / 1000;
            wrote = self
                .seal(&letter)
                .is_some_and(|sealed| self.carrier.write(&sealed, &letter, now, headers));
        }
        if wrote {
            self.carrier.make_private(headers);
        }
        wrote
    }

    fn forget(&self, _: bool, notes: &mut RequestState, headers: &mut HeaderMap) {
        let attributes = self.opened(notes).map(|opened| &*opened.letter.attributes);
        self.carrier.forget(attributes, headers);
        self.carrier.make_private(headers);
    }

    fn new_session(&self) -> Option<u64> {
        self.tokens.life().new_session()
    }

    fn is_dated(&self) -> bool {
        self.tokens.life().is_dated()
    }

    fn idle_for(&self) -> Option<Duration> {
        self.tokens.life().idle_for()
    }

    fn carrier(&self) -> Option<String> {
        Some(match &self.carrier {
            Carrier::Cookie(_, name) => format!("the cookie {name:?}"),
            Carrier::Header(name) => format!("the header {:?}", name.as_str()),
        })
    }

    fn hop(&self, to: &BackendId) -> Option<HeaderValue> {
        HeaderValue::try_from(self.tokens.hop(to)?).ok()
    }

    fn is_hop(&self, value: &HeaderValue, pool: &ReadContext<'_>) -> bool {
        self.tokens.is_hop(value.as_bytes(), pool)
    }
}

impl fmt::Debug for Bound {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Envelope").field("carrier", &self.carrier).finish_non_exhaustive()
    }
}
