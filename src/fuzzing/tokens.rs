//! Tokens, envelopes and codes of routes, with all their fields.

use crate::{
    outcome::Reason,
    token::{self, Context, EnvelopePayload, KeyRing, Pin, RouteCode},
};

/// The fields of a token.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Token {
    /// The tag of the backend's id.
    pub backend: u64,
    /// The identifier of the session.
    pub session: u64,
    /// The epoch, 48 bits.
    pub epoch: u64,
    /// When the session began, in Unix seconds.
    pub issued: u32,
    /// When the token was sealed, in Unix seconds.
    pub seen: u32,
}

/// What an envelope contains besides the token.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Content {
    /// When the cookie expires, in Unix seconds.
    pub expires: u32,
    /// The id of the application.
    pub id: Vec<u8>,
    /// The attributes of its cookie.
    pub attributes: Vec<u8>,
}

impl From<Token> for Pin {
    fn from(token: Token) -> Self {
        let Token { backend, session, epoch, issued, seen } = token;
        Self { backend, session, epoch, issued, seen }
    }
}

impl From<Pin> for Token {
    fn from(pin: Pin) -> Self {
        let Pin { backend, session, epoch, issued, seen } = pin;
        Self { backend, session, epoch, issued, seen }
    }
}

/// Seals and opens for one purpose, pool and name.
#[derive(Debug)]
pub struct Carrier {
    keys: KeyRing,
    context: Context,
}

impl Carrier {
    /// The purpose is that of the tokens: "cookie", "header", "envelope cookie", …
    pub fn new(keys: KeyRing, purpose: &str, pool: &str, name: &str) -> Self {
        Self { keys, context: Context::new(purpose, pool, name) }
    }

    /// `None` without random numbers.
    pub fn seal(&self, token: Token) -> Option<String> {
        token::seal(&self.keys, &self.context, &token.into())
    }

    /// The token, and the position in the ring of the key that sealed it.
    ///
    /// # Errors
    ///
    /// Why it is not valid here.
    pub fn open(&self, token: &[u8]) -> Result<(Token, usize), Reason> {
        let opened = token::open(&self.keys, &self.context, token, 0)?;
        Ok((opened.pin.into(), opened.key))
    }

    /// `None` when the content is too long, or without random numbers.
    pub fn wrap(&self, token: Token, content: &Content) -> Option<Vec<u8>> {
        let payload = EnvelopePayload {
            pin: token.into(),
            expires: content.expires,
            id: content.id.as_slice().into(),
            attributes: content.attributes.as_slice().into(),
        };
        token::seal_envelope(&self.keys, &self.context, &payload)
    }

    /// The token and the content, and the position in the ring of the key that sealed them.
    ///
    /// # Errors
    ///
    /// Why it is not valid here.
    pub fn unwrap(&self, envelope: &[u8]) -> Result<(Token, Content, usize), Reason> {
        let (payload, key) = token::open_envelope(&self.keys, &self.context, envelope, 0)?;
        let EnvelopePayload { pin, expires, id, attributes } = payload;
        let content = Content { expires, id: id.into(), attributes: attributes.into() };
        Ok((pin.into(), content, key))
    }
}

/// The code of a route, written again after it was parsed; `None` when `text` is not one.
pub fn route_code(text: &[u8]) -> Option<String> {
    RouteCode::parse(text).map(|code| code.to_string())
}
