//! `Envelope`: the application's own session id, sealed together with the pin.

use std::{fmt, sync::Arc};

use super::{bound::Bound, carrier::Carrier, query::QueryParameter};
use crate::{
    affinity::{
        BoundAffinity,
        cookie::{parse, set_cookie},
        header::header_name,
        token_codec::TokenCodec,
        token_options::{TokenOptions, invalid, token_setters},
        traits::sealed::Bind,
    },
    error::ConfigError,
    token::KeyRing,
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
///
/// Recipes with real clients: [`mcp`](crate::guide::mcp), [`own_sessions`](crate::guide::own_sessions).
#[derive(Clone)]
pub struct Envelope {
    carrier: CarrierName,
    query: Option<String>,
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
        Self::new(CarrierName::Cookie(name.into()), keys)
    }

    /// The id is in a header, which the application sets in a response and the client sends back.
    pub fn header(name: impl Into<String>, keys: KeyRing) -> Self {
        Self::new(CarrierName::Header(name.into()), keys)
    }

    fn new(carrier: CarrierName, keys: KeyRing) -> Self {
        Self { carrier, query: None, tokens: TokenOptions::new(Some(keys)) }
    }

    /// A request may have the envelope in the query parameter `name` as well, and the application receives its id
    /// there: for clients that get the id in a response and cannot set a header or a cookie in a later request, such
    /// as `EventSource` and `WebSocket` in a browser. An envelope in the header or the cookie is preferred.
    ///
    /// Only the parameter itself is changed. Other parameters are kept byte for byte. URLs are often logged: whoever
    /// reads one can use the session until it ends.
    ///
    /// # Example
    ///
    /// ```
    /// use tower_sticky::{KeyRing, affinity::Envelope};
    ///
    /// // `POST /rooms` answers with `x-room: 42`, and the page opens `wss://…/events?room=…`.
    /// let rooms = Envelope::header("x-room", KeyRing::generate()?).query("room");
    /// # Ok::<(), tower_sticky::ConfigError>(())
    /// ```
    #[must_use]
    pub fn query(mut self, name: impl Into<String>) -> Self {
        self.query = Some(name.into());
        self
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
        f.debug_struct("Envelope")
            .field("carrier", &self.carrier)
            .field("query", &self.query)
            .finish_non_exhaustive()
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
        let query = self.query.as_deref().map(QueryParameter::new).transpose()?;
        Ok(Arc::new(Bound { carrier, query, keys, tokens }))
    }
}
